"""The pages of workflows on a filled account: what each does, versions, differences, and what would have happened."""

from __future__ import annotations

import re
from typing import Any

import pytest

from app.console.lists import PAGE
from app.services import workflow_activity, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.console import Browser

HOSTILE = "<img src=x onerror=alert(1)>\"&' नमस्ते مرحبا 🛒" + "x" * 60
PATTERN = {
    "seq": [{"event": "cart", "where": "data.total > 5"}, {"any": ["pay", "*"]}],
    "within": "1d",
    "unless": "stop",
}


def _apply(context: AppContext, sender: Sender, **changes: Any) -> None:
    workflows.apply_workflow(context, sender.account_id, a_workflow(**changes))


def test_the_list_shows_what_each_workflow_does(context: AppContext, viewer: Browser, acme: Sender) -> None:
    _apply(context, acme, name="hello", steps=[{"wait": "1h"}])
    for _ in range(3):
        acme.post(an_event())
    page = viewer.get(f"/{acme.slug}/workflows").text
    assert f'href="/console/{acme.slug}/workflow?name=hello"' in page
    assert "product_view" in page
    assert "version 1" in page
    assert "Starts by day, the last day last: 0, 0, 0, 0, 0, 0, 3" in page
    assert "step 1: 3" in page


def test_the_list_has_pages(context: AppContext, viewer: Browser, acme: Sender) -> None:
    for number in range(PAGE + 1):
        workflows.save_draft(context, acme.account_id, a_workflow(name=f"w{number:02}"))
    first = viewer.get(f"/{acme.slug}/workflows").text
    assert ("name=w49" in first, "name=w50" in first) == (True, False)
    second = viewer.client.get(first.partition('">More workflows</a>')[0].rpartition('href="')[2]).text
    assert ("name=w49" in second, "name=w50" in second) == (False, True)


def test_a_workflow_of_another_account_does_not_exist(
    context: AppContext, owner: Browser, acme: Sender, globex: Sender
) -> None:
    _apply(context, globex, name="theirs")
    for path in ("", "/source", "/versions", "/difference", "/disable", "/delete", "/backtest"):
        assert owner.get(f"/{acme.slug}/workflow{path}?name=theirs").status_code == 404, path
    assert "theirs" not in owner.get(f"/{acme.slug}/workflows").text
    for path in ("enable", "disable", "delete"):
        answer = owner.post(f"/{acme.slug}/workflow/{path}", "/profile", name="theirs", version="1")
        assert answer.status_code == 404, path
    assert workflows.find_workflow(context, globex.account_id, "theirs").enabled_version == 1


def test_a_workflow_is_shown_with_its_pattern_steps_and_lines(
    context: AppContext, viewer: Browser, acme: Sender
) -> None:
    steps = [
        {"if": "data.rich", "then": [{"wait": "2h"}], "else": []},
        {"par": [[{"log": "a"}], [{"wait_for": "paid", "timeout": "3d", "id": "payment"}]]},
        {"repeat": [{"sms": {"to": "{{ phone }}", "text": "Hello"}}], "until": "vars.done", "most": 3},
        {"set": {"done": True}},
    ]
    _apply(context, acme, name="cart", description=HOSTILE, on=PATTERN, steps=steps)
    page = viewer.get(f"/{acme.slug}/workflow?name=cart").text
    for text in (
        "in this order",
        "where data.total &gt; 5",
        "one of these",
        "any event",
        "within 1d, unless stop comes between",
    ):
        assert text in page, text
    for text in ("wait 2h", "goes on", "2 blocks in parallel", "wait for at most 3d until", "paid (id payment)"):
        assert text in page, text
    for text in (
        "repeat at most 3 times",
        "until vars.done",
        "send the SMS",
        "step 3, repeat 1",
        "step 2, block 2, 1",
        "&lt;img src=x",
    ):
        assert text in page, text
    assert "<img src=x" not in page
    assert viewer.get(f"/{acme.slug}/workflow/source?name=cart").text.startswith('{"name": "cart"')


def test_a_workflow_says_who_waits_and_which_events_did_not_start_it(
    context: AppContext, viewer: Browser, acme: Sender
) -> None:
    choosy = {"event": "product_view", "where": "data.price > 10.0"}
    _apply(context, acme, name="choosy", on=choosy, steps=[{"log": "hello"}, {"wait": "1h"}])
    run = acme.post(an_event(distinct_id="anna", data={"price": 20})).get_json()["runs"][0]
    sent = acme.post(an_event(distinct_id="bert", data={"price": 5})).get_json()
    page = viewer.get(f"/{acme.slug}/workflow?name=choosy").text
    assert f'<a href="/console/{acme.slug}/runs/{run}">the run</a>' in page
    assert "1 here now" in page
    assert f"/console/{acme.slug}/events/{sent['id']}" in page
    assert "the filter is false" in page


def test_people_on_the_way_in_a_pattern_are_counted(context: AppContext, viewer: Browser, acme: Sender) -> None:
    _apply(context, acme, name="cart", on={"seq": ["cart", "order"]})
    acme.post(an_event(event="cart"))
    assert "1 on the way" in viewer.get(f"/{acme.slug}/workflow?name=cart").text


def test_a_draft_is_shown_with_its_mistakes(context: AppContext, viewer: Browser, acme: Sender) -> None:
    workflows.save_draft(context, acme.account_id, a_workflow(name="draft", on={"event": "a", "where": "data.x >"}))
    page = viewer.get(f"/{acme.slug}/workflow?name=draft").text
    assert "This version has mistakes" in page
    assert "<code>on.where</code>" in page
    assert "What would have happened" not in page
    assert viewer.get(f"/{acme.slug}/workflow/backtest?name=draft").status_code == 422


def test_versions_have_who_and_when_and_their_difference(context: AppContext, viewer: Browser, acme: Sender) -> None:
    source = "name: hello\non: a\nsteps:\n- log: one\n"
    workflows.apply_workflow(context, acme.account_id, source)
    workflows.apply_workflow(context, acme.account_id, source.replace("one", HOSTILE.replace('"', "")))
    page = viewer.get(f"/{acme.slug}/workflow/versions?name=hello").text
    assert ("version 1" in page, "version 2" in page, "signalbox" in page) == (True, True, True)
    page = viewer.get(f"/{acme.slug}/workflow/difference?name=hello").text
    assert ("removed</span></td>" in page, "- log: one" in page) == (True, True)
    assert ("added</span></td>" in page, "&lt;img src=x" in page) == (True, True)
    assert "are equal" in viewer.get(f"/{acme.slug}/workflow/difference?name=hello&old=1&new=1").text
    assert viewer.get(f"/{acme.slug}/workflow/difference?name=hello&new=3").status_code == 404


def test_an_editor_enables_a_version(context: AppContext, viewer: Browser, editor: Browser, acme: Sender) -> None:
    for text in ("one", "two"):
        _apply(context, acme, name="hello", steps=[{"log": text}])
    path = f"/{acme.slug}/workflow/versions?name=hello"
    assert "Enable" not in viewer.get(path).text
    answer = editor.post(f"/{acme.slug}/workflow/enable", path, name="hello", version="1")
    page = editor.client.get(answer.location)
    assert (page.status_code, "Version 1 is enabled: it looks at events from now on." in page.text) == (200, True)
    assert workflows.find_workflow(context, acme.account_id, "hello").enabled_version == 1


def test_a_version_with_mistakes_is_not_enabled(context: AppContext, editor: Browser, acme: Sender) -> None:
    workflows.save_draft(context, acme.account_id, a_workflow(name="draft", steps=[{"jump": 1}]))
    answer = editor.post(f"/{acme.slug}/workflow/enable", "/profile", name="draft", version="1")
    assert answer.status_code == 422
    assert "steps[0]" in answer.text
    assert workflows.find_workflow(context, acme.account_id, "draft").enabled_version is None


@pytest.mark.parametrize(("fields", "status"), [({}, "running"), ({"cancel_runs": "1"}, "cancelled")], ids=str)
def test_an_editor_disables_a_workflow_with_or_without_its_runs(
    context: AppContext, editor: Browser, acme: Sender, fields: dict[str, str], status: str
) -> None:
    _apply(context, acme, name="hello", steps=[{"wait": "1h"}])
    run = acme.post(an_event()).get_json()["runs"][0]
    path = f"/{acme.slug}/workflow/disable"
    assert "1 run is going on." in editor.get(f"{path}?name=hello").text
    answer = editor.post(path, f"{path}?name=hello", name="hello", **fields)
    page = editor.client.get(answer.location)
    assert (page.status_code, "hello is disabled" in page.text) == (200, True)
    assert f">{status}</span>" in editor.get(f"/{acme.slug}/runs/{run}").text
    assert workflows.find_workflow(context, acme.account_id, "hello").enabled_version is None


def test_an_editor_deletes_a_workflow_after_seeing_what_goes_with_it(
    context: AppContext, editor: Browser, acme: Sender
) -> None:
    _apply(context, acme, name="hello", steps=[{"wait": "1h"}])
    acme.post(an_event())
    path = f"/{acme.slug}/workflow/delete"
    assert "1 version, the progress of everybody in its pattern, and 1 run, of which 1 run is going on" in " ".join(
        editor.get(f"{path}?name=hello").text.split()
    )
    answer = editor.post(path, f"{path}?name=hello", name="hello")
    page = editor.client.get(answer.location)
    assert (page.status_code, "hello is deleted, with 1 run." in page.text) == (200, True)
    assert editor.get(f"/{acme.slug}/workflow?name=hello").status_code == 404


def test_a_backtest_says_what_would_have_happened(context: AppContext, viewer: Browser, acme: Sender) -> None:
    for subject in ("anna", "anna", "bert"):
        acme.post(an_event(distinct_id=subject, data={"price": 20}))
    acme.post(an_event(distinct_id="carl", data={"price": 5}))
    on = {"event": "product_view", "where": "data.price > 10.0"}
    workflows.save_draft(context, acme.account_id, a_workflow(name="choosy", on=on))
    page = viewer.get(f"/{acme.slug}/workflow/backtest?name=choosy").text
    assert "<strong>3 runs</strong>, for 2 of 3 subjects" in page
    assert '<rect width="100.0"' in page
    page = viewer.get(f"/{acme.slug}/workflow/backtest?name=choosy&days=999999").text
    assert 'name="days" min="1" max="31" value="31"' in page
    assert "No event that it looks at" not in page


def test_a_backtest_that_takes_too_long_says_how_far_it_came(
    context: AppContext, viewer: Browser, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.console.workflows._SECONDS", 0.0)
    acme.post(an_event())
    _apply(context, acme, name="hello")
    assert (
        "The time limit was reached after 0 subjects" in viewer.get(f"/{acme.slug}/workflow/backtest?name=hello").text
    )


def test_a_large_workflow_is_a_page_of_less_than_100_kib(context: AppContext, editor: Browser, acme: Sender) -> None:
    steps = [{"log": f'"{HOSTILE}"' * 5}] * 150
    _apply(context, acme, name="large", description=HOSTILE * 50, on={"any": ["a"] * 150}, steps=steps)
    page = editor.get(f"/{acme.slug}/workflow?name=large")
    assert "There are too many steps for a drawing." in page.text
    assert "This is the beginning." in page.text
    assert len(page.data) < 100 * 1024
    _apply(context, acme, name="large", steps=steps[:100])
    page = editor.get(f"/{acme.slug}/workflow?name=large")
    assert "step 100" in page.text
    assert len(page.data) < 100 * 1024


def test_an_empty_account_says_what_a_workflow_is(viewer: Browser, acme: Sender) -> None:
    assert "There is no workflow yet." in viewer.get(f"/{acme.slug}/workflows").text


def test_too_many_runs_are_left_to_the_commands(
    context: AppContext, editor: Browser, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow_activity, "MAX_CANCELLED", 0)
    monkeypatch.setattr(workflow_activity, "MAX_DELETED", 0)
    _apply(context, acme, name="hello", steps=[{"wait": "1h"}])
    acme.post(an_event())
    for path, fields in (("disable", {"cancel_runs": "1"}), ("delete", {})):
        answer = editor.post(f"/{acme.slug}/workflow/{path}", "/profile", name="hello", **fields)
        assert (answer.status_code, f"signalbox workflow {path} hello" in answer.text) == (409, True)
    assert workflows.find_workflow(context, acme.account_id, "hello").enabled_version == 1


def test_the_list_is_filtered_by_a_part_of_the_name(context: AppContext, viewer: Browser, acme: Sender) -> None:
    for name in ("Cart-reminder", "cart-offer", "survey"):
        workflows.apply_workflow(context, acme.account_id, a_workflow(name=name))
    page = viewer.get(f"/{acme.slug}/workflows?name=CART").text
    assert ("Cart-reminder" in page, "cart-offer" in page, "survey" in page) == (True, True, False)
    assert "No workflow has this in its name." in viewer.get(f"/{acme.slug}/workflows?name=%25").text


def test_the_pages_of_a_filtered_list_keep_the_filter(
    monkeypatch: pytest.MonkeyPatch, context: AppContext, viewer: Browser, acme: Sender
) -> None:
    monkeypatch.setattr("app.console.lists.PAGE", 1)
    for name in ("cart-1", "cart-2", "survey"):
        workflows.apply_workflow(context, acme.account_id, a_workflow(name=name))
    page = viewer.get(f"/{acme.slug}/workflows?name=cart").text
    more = re.search(r'href="([^"]+)">More workflows', page)
    assert more is not None
    page = viewer.client.get(more[1].replace("&amp;", "&")).text
    assert ("cart-2" in page, "survey" in page, "More workflows" in page) == (True, False, False)


def test_the_page_says_what_ends_the_runs_and_fills_in_the_test_event(
    context: AppContext, editor: Browser, acme: Sender
) -> None:
    document = a_workflow(on={"seq": ["cart", {"none": "order", "for": "1h"}]}, exit_on="cart_emptied")
    workflows.apply_workflow(context, acme.account_id, document)
    page = editor.get(f"/{acme.slug}/workflow?name=watch").text
    assert "cart_emptied" in page.partition("Its runs end, at any step, on")[2].partition("</ul>")[0]
    assert f'href="/console/{acme.slug}/events/new?event=cart"' in page
    assert 'value="cart"' in editor.get(f"/{acme.slug}/events/new?event=cart").text
