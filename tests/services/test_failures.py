"""Failed runs, grouped by target and error."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from app.db.failures import FailureGroup
from app.db.inspection import NOTHING, RunFilter
from app.services import failures, inspection, runs, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, HttpTarget, an_http_target
from tests.support.run_execution import execute_run


def _fail(context: AppContext, sender: Sender, step: Mapping[str, Any], name: str = "watch", subject: str = "1") -> str:
    """A run that executes this step."""
    workflows.apply_workflow(context, sender.account_id, a_workflow(name=name, on=name, steps=[step]))
    run: str = sender.post(an_event(event=name, distinct_id=subject)).get_json()["runs"][0]
    execute_run(context, sender.account_id, run)
    return run


def _call(target: HttpTarget, path: str = "/orders/{{ distinct_id }}") -> dict[str, Any]:
    return {"http": {"url": target.url + path}, "retry": {"attempts": 1}}


def _groups(context: AppContext, sender: Sender, **options: Any) -> list[FailureGroup]:
    return list(
        failures.find_failures(context, sender.account_id, context.clock() - timedelta(days=1), **options).groups
    )


def test_runs_that_fail_at_one_target_with_one_error_are_a_group(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(500)) as target:
        for name, subject in (("a", "1"), ("b", "1"), ("b", "2")):
            last = _fail(context, acme, _call(target), name, subject)
        (found,) = _groups(context, acme)
        assert (found.target, found.error_class) == (f"POST {target.url}/orders/*", "http_5xx")
    assert (found.runs, found.subjects, list(found.workflows), str(found.run_id)) == (3, 2, ["a", "b"], last)
    assert found.first_at < found.last_at
    assert "answered 500" in str(found.error)


def test_targets_and_errors_are_told_apart(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(500), Answer(404), Answer(404)) as target:
        _fail(context, acme, _call(target))
        _fail(context, acme, _call(target))
        _fail(context, acme, _call(target, "/other"))
        url = target.url
    found = [(one.target, one.error_class) for one in _groups(context, acme)]
    assert found == [
        (f"POST {url}/other", "http_4xx"),
        (f"POST {url}/orders/*", "http_4xx"),
        (f"POST {url}/orders/*", "http_5xx"),
    ]


def test_a_failure_without_a_call_has_no_target(context: AppContext, acme: Sender) -> None:
    _fail(context, acme, {"http": {"url": "{{ data.missing }}"}})
    (found,) = _groups(context, acme)
    assert (found.target, found.error_class) == (None, "bad_url")


def test_a_run_whose_block_failed_has_the_target_of_the_block(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(400)) as target:
        step = {"par": [[_call(target)], [{"log": "fine"}]]}
        run = _fail(context, acme, step)
        for block in _blocks(context, acme, run):
            execute_run(context, acme.account_id, block)
        execute_run(context, acme.account_id, run, job=2)
        (found,) = _groups(context, acme)
        assert (found.target, found.error_class, found.runs) == (f"POST {target.url}/orders/*", "http_4xx", 1)


def _blocks(context: AppContext, sender: Sender, run: str) -> list[str]:
    with context.database.transaction() as connection:
        query = "SELECT id FROM runs WHERE account_id = :account AND root_id = :run ORDER BY id"
        return [
            str(row.id) for row in connection.execute(sa.text(query), {"account": sender.account_id, "run": run}).all()
        ]


def test_a_retried_run_is_in_no_group(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(500), Answer(200)) as target:
        run = _fail(context, acme, _call(target))
        (found,) = _groups(context, acme)
        runs.retry_runs(context, acme.account_id, [found.run_id])
        assert _groups(context, acme) == []
        row = execute_run(context, acme.account_id, run, job=2)
    assert (row["status"], row["error_target"], row["error_class"]) == ("done", None, None)


def test_failures_are_filtered_by_workflow_time_and_account(context: AppContext, acme: Sender, globex: Sender) -> None:
    with an_http_target(Answer(500)) as target:
        _fail(context, acme, _call(target), "a")
        _fail(context, globex, _call(target), "b")
    assert len(_groups(context, acme, workflow="a")) == 1
    assert _groups(context, acme, workflow="b") == []
    later = context.clock() + timedelta(hours=1)
    assert failures.find_failures(context, acme.account_id, later).groups == []


def test_the_filters_of_runs_find_those_of_a_group(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(500)) as target:
        called = _fail(context, acme, _call(target), "a")
        broken = _fail(context, acme, {"http": {"url": "{{ data.missing }}"}}, "b")
        name = f"POST {target.url}/orders/*"
    for filters, expected in (
        ({"target": name}, [called]),
        ({"target": name, "error_class": "http_4xx"}, []),
        ({"target": NOTHING}, [broken]),
        ({"error_class": "bad_url"}, [broken]),
        ({"error_class": NOTHING}, []),
        ({"status": "failed", "workflow": "a"}, [called]),
        ({"status": "done"}, []),
        ({"until": context.clock() - timedelta(hours=2)}, []),
    ):
        found = inspection.find_latest_runs(context, acme.account_id, RunFilter(**filters), 10)  # type: ignore[arg-type]
        assert [str(run.id) for run in found] == expected, filters


def test_the_groups_say_when_runs_were_left_out(context: AppContext, acme: Sender, monkeypatch: Any) -> None:
    _fail(context, acme, {"http": {"url": "{{ data.missing }}"}}, "a")
    _fail(context, acme, {"http": {"url": "{{ data.missing }}"}}, "b")
    since = context.clock() - timedelta(days=1)
    assert failures.find_failures(context, acme.account_id, since).is_complete
    monkeypatch.setattr(failures, "MAX_SCANNED", 1)
    found = failures.find_failures(context, acme.account_id, since)
    assert (found.groups[0].runs, found.is_complete) == (1, False)
