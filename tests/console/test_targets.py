"""The page of the targets that are paused or disabled: why, what waits for them, and the button that enables a disabled one."""

from __future__ import annotations

from html import unescape
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from app.actions.circuit_breaker import CircuitChange
from app.db.audit import EntryFilter
from app.services import audit, integrations, targets, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.console import Browser
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run

HOSTILE = 'https://shop.example/<script>alert("नमस्ते 🛒")</script>'


def _disable(context: AppContext, sender: Sender, *names: str) -> None:
    for name in names:
        integrations.disable_target(context, sender.account_id, name, "answered 410", uuid4())


def test_a_target_that_answered_410_is_shown_and_enabled_and_the_next_run_calls_it(
    context: AppContext, viewer: Browser, editor: Browser, acme: Sender
) -> None:
    page = f"/{acme.slug}/targets"
    with an_http_target(Answer(410), Answer(200)) as server:
        url = f"{server.url}/hook"
        step = {"http": {"url": url}}
        workflows.apply_workflow(context, acme.account_id, a_workflow(name="tell", steps=[step]))
        first, second = (acme.post(an_event()).get_json()["runs"][0] for _ in range(2))
        assert execute_run(context, acme.account_id, first)["status"] == "failed"
        shown = viewer.get(page).text
        assert url in shown
        assert "answered 410: the target is gone for good" in shown
        assert f'/{acme.slug}/runs/{first}">tell</a>' in shown
        assert "/targets/enable" not in shown
        for path in ("", "failures", f"runs/{first}"):
            assert f'href="/console{page}"' in viewer.get(f"/{acme.slug}/{path}").text.partition("<main")[2], path
        assert f'name="target" value="{url}"' in editor.get(page).text
        assert editor.post(f"{page}/enable", page, target=url).status_code == 302
        after = editor.get(page).text
        assert f"{url} is enabled." in after
        assert "No target is paused or disabled." in after
        assert execute_run(context, acme.account_id, second)["status"] == "done"
    assert len(server.calls) == 2
    (entry,) = audit.list_entries(context, EntryFilter(acme.account_id, action="target.enable"), 10)
    assert (entry.actor, entry.via, entry.object_id) == (editor.email, "console", url)


def test_a_target_that_keeps_failing_is_shown_with_the_next_call_and_cannot_be_enabled(
    context: AppContext, editor: Browser, acme: Sender
) -> None:
    targets.save_circuits(context, [CircuitChange(acme.account_id, f"POST {HOSTILE}", 5, 60.0, 60.0)])
    (row,) = targets.list_targets(context, acme.account_id)
    page = editor.get(f"/{acme.slug}/targets").text
    assert "5 calls in a row failed" in page
    assert "0 runs wait for it" in page
    assert f'datetime="{row.retry_at:%Y-%m-%dT%H:%M:%S}' in page
    assert "/targets/enable" not in page
    link = next(unescape(part.split('"')[0]) for part in page.split('href="') if "status=failed" in part)
    assert parse_qs(urlsplit(link).query)["target"] == [row.target]
    assert "<script>alert" not in page


def test_a_target_that_is_not_disabled_or_of_another_account_is_not_enabled(
    context: AppContext, editor: Browser, acme: Sender, globex: Sender
) -> None:
    _disable(context, globex, HOSTILE)
    page = f"/{acme.slug}/targets"
    assert "shop.example" not in editor.get(page).text
    refused = editor.post(f"{page}/enable", "/profile", target=HOSTILE)
    assert refused.status_code == 404
    assert "is not disabled" in refused.text
    assert "<script>alert" not in refused.text
    assert len(targets.list_targets(context, globex.account_id)) == 1


def test_a_long_list_has_pages(context: AppContext, editor: Browser, acme: Sender) -> None:
    names = [f"https://{number}.example/{'long' * 200}" for number in range(30)]
    _disable(context, acme, *names)
    path, found = f"/{acme.slug}/targets", []
    for expected in (25, 5):
        page = editor.get(path).text
        shown = [name for name in names if f'value="{name}"' in page]
        assert len(shown) == expected
        found += shown
        path = next((unescape(part.split('"')[0]) for part in page.split('href="/console') if "?after=" in part), "")
    assert sorted(found) == sorted(names)
    assert path == ""
    assert editor.get(f"/{acme.slug}/targets?after=soon").status_code == 404
    assert "There are no more." in editor.get(f"/{acme.slug}/targets?after=2000-01-01T00:00:00Z,x").text
