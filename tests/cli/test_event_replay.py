"""`signalbox event replay`: the workflows that are enabled now look at stored events again."""

from __future__ import annotations

import re

from app.db.audit import EntryFilter
from app.services import audit, workflows
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run, jobs_of, rows_of, the_run


def test_a_replay_starts_the_workflow_that_is_enabled_now(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    event = acme.post(an_event()).get_json()["id"]
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"log": "{{ data.product_id }}"}]))
    output = signalbox("event", "replay", event).stdout.splitlines()
    assert output[0] == f"event {event}"
    run = output[1].removeprefix("  watch version 1 started run ")
    assert jobs_of(context, run) == [f"{acme.account_id}:{run}:1"]
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    assert rows_of(context, "steps", acme.account_id, run)[0]["output"] == {"text": "65432"}


def test_each_run_that_a_replay_starts_has_an_entry_in_the_audit_log(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    event = acme.post(an_event()).get_json()["id"]
    for name in ("one", "two"):
        workflows.apply_workflow(context, acme.account_id, a_workflow(name=name))
    output = signalbox("event", "replay", event).stdout
    entries = audit.list_entries(context, EntryFilter(acme.account_id, action="event.replay", object_id=event), 10)
    runs = [(entry.after or {})["run"] for entry in entries]
    assert len(runs) == 2
    assert all(f"started run {run}" in output for run in runs)


def test_an_event_that_has_started_a_workflow_does_not_start_it_again(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    answer = acme.post(an_event()).get_json()
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"log": "changed"}]))
    for options in ([], ["--dry-run"]):
        output = signalbox("event", "replay", answer["id"], *options).stdout.splitlines()
        assert output[1] == f"  watch version 2 has had run {answer['runs'][0]}, starts no other"


def test_a_replay_twice_starts_one_run(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    event = acme.post(an_event()).get_json()["id"]
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    for _ in range(2):
        signalbox("event", "replay", event)
    assert len(signalbox("run", "list", "--account", acme.slug).stdout.splitlines()) == 1


def test_a_dry_run_changes_nothing(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    event = acme.post(an_event()).get_json()["id"]
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    assert signalbox("event", "replay", event, "--dry-run").stdout == (
        f"event {event}\n  watch version 1 would start a run: matched\n"
    )
    assert signalbox("run", "list", "--account", acme.slug).stdout == ""


def test_a_replay_prints_why_nothing_starts(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    event = acme.post(an_event()).get_json()["id"]
    on = {"event": "product_view", "where": "data.price > 1000"}
    workflows.apply_workflow(context, acme.account_id, a_workflow(on=on))
    assert signalbox("event", "replay", event).stdout.splitlines()[1] == (
        "  watch version 1 does not start: data.price is missing"
    )


def test_a_replay_prints_when_no_workflow_looks_at_the_event(signalbox: CommandLine, acme: Sender) -> None:
    event = acme.post(an_event()).get_json()["id"]
    output = signalbox("event", "replay", event).stdout
    assert output == f"event {event}: no enabled workflow looks at events of this name\n"


def test_a_disabled_workflow_is_not_replayed(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    event = acme.post(an_event()).get_json()["id"]
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    workflows.disable_workflow(context, acme.account_id, "watch")
    assert "no enabled workflow looks" in signalbox("event", "replay", event).stdout


def test_a_replayed_run_is_explained_with_its_event(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    event = acme.post(an_event()).get_json()["id"]
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"wait": "1h"}]))
    signalbox("event", "replay", event)
    output = signalbox("event", "show", event).stdout
    assert "decisions: none" in output
    assert re.search(r"^  [0-9a-f-]{36} watch version 1, started .+Z: running at steps\[0\]", output, re.MULTILINE)


def test_a_pattern_is_replayed_with_what_came_before(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    first, second, third = (acme.post(an_event()).get_json()["id"] for _ in range(3))
    acme.post(an_event(distinct_id="somebody else"))
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"times": 3, "of": "product_view"}))
    output = signalbox("event", "replay", third, first, second).stdout.splitlines()
    assert [line for line in output if line.startswith("event ")] == [f"event {one}" for one in (first, second, third)]
    assert "does not start: 1 of 3 product_view" in output[1]
    assert "does not start: 2 of 3 product_view" in output[3]
    run = output[5].removeprefix("  watch version 1 started run ")
    assert list(map(str, the_run(context, acme.account_id, run)["matched"])) == [first, second, third]


def test_a_pattern_counted_by_a_key_is_replayed_by_it(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    def post(order: object, subject: str) -> str:
        event: str = acme.post(an_event(distinct_id=subject, data={"order": order})).get_json()["id"]
        return event

    events = [post(7, "1"), post(8, "1"), post(7, "2")]
    on = {"times": 2, "of": "product_view"}
    workflows.apply_workflow(context, acme.account_id, a_workflow(on=on, key="data.order"))
    output = signalbox("event", "replay", *events, "--dry-run").stdout.splitlines()
    assert [line.split(":")[0] for line in output[1::2]] == [
        "  watch version 1 does not start",
        "  watch version 1 does not start",
        "  watch version 1 would start a run",
    ]


def test_again_counts_starts_by_replay_and_by_events_alike(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    old = [acme.post(an_event()).get_json()["id"] for _ in range(2)]
    workflows.apply_workflow(context, acme.account_id, a_workflow(again="once"))
    output = signalbox("event", "replay", *old).stdout.splitlines()
    assert output[1].startswith("  watch version 1 started run ")
    assert output[3] == "  watch version 1 does not start: suppressed: again (once)"
    assert acme.post(an_event()).get_json()["runs"] == []


def test_a_live_start_suppresses_one_by_replay(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    old = acme.post(an_event()).get_json()["id"]
    workflows.apply_workflow(context, acme.account_id, a_workflow(again="1d"))
    assert len(acme.post(an_event()).get_json()["runs"]) == 1
    assert "does not start: suppressed: again" in signalbox("event", "replay", old).stdout
