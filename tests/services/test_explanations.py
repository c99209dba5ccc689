"""Why did, or did not, a workflow start for a person: one sentence for each workflow."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from app.core.errors import Problem
from app.core.models import Actor
from app.db.connection import run_sql
from app.services import explanations, runs, workflows
from app.services.context import AppContext
from app.services.explanations import Answer, explain_starts
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer as TargetAnswer
from tests.support.http_target import an_http_target
from tests.support.run_execution import execute_run

PERSON = "anna नमस्ते"


def _apply(context: AppContext, sender: Sender, **changes: Any) -> None:
    workflows.apply_workflow(context, sender.account_id, a_workflow(**changes))


def _post(sender: Sender, event: str = "product_view", **changes: Any) -> list[str]:
    """Send an event of the person; the runs that it started."""
    return list(sender.post(an_event(event=event, distinct_id=PERSON, **changes)).get_json()["runs"])


def _why(context: AppContext, sender: Sender, workflow: str | None = "watch") -> Answer:
    [answer] = explain_starts(context, sender.account_id, PERSON, workflow)
    return answer


def test_a_run_that_waits_is_named_with_its_step_and_time(context: AppContext, acme: Sender) -> None:
    _apply(context, acme, steps=[{"wait": "1h"}])
    [run] = _post(acme)
    execute_run(context, acme.account_id, run)
    answer = _why(context, acme)
    assert (answer.kind, str(answer.run)) == (explanations.STARTED, run)
    assert answer.sentence.startswith("It started at 20")
    assert "the run waits at steps[0] until 20" in answer.sentence


def test_a_failed_run_says_where_and_why(context: AppContext, acme: Sender) -> None:
    with an_http_target(TargetAnswer(500)) as target:
        _apply(context, acme, steps=[{"http": {"url": target.url}, "retry": {"attempts": 1}}])
        [run] = _post(acme)
        execute_run(context, acme.account_id, run)
    assert "the run failed at 20" in _why(context, acme).sentence
    assert ": steps[0] (http): " in _why(context, acme).sentence


def test_a_run_that_ended_names_a_step_that_failed_on_the_way(context: AppContext, acme: Sender) -> None:
    with an_http_target(TargetAnswer(500)) as target:
        step = {"http": {"url": target.url}, "retry": {"attempts": 1}, "else": [{"log": "never mind"}]}
        _apply(context, acme, steps=[step])
        [run] = _post(acme)
        execute_run(context, acme.account_id, run)
    answer = _why(context, acme)
    assert "the run ended at 20" in answer.sentence
    assert ", but steps[0] (http) failed: " in answer.sentence


def test_a_cancelled_run_is_named(context: AppContext, acme: Sender) -> None:
    _apply(context, acme, steps=[{"wait": "1h"}])
    [run] = _post(acme)
    runs.cancel_runs(context, acme.account_id, [UUID(run)])
    assert "the run was cancelled at 20" in _why(context, acme).sentence


def test_an_event_that_was_never_sent_is_named(context: AppContext, acme: Sender) -> None:
    _apply(context, acme, on="order")
    assert _why(context, acme).sentence == "No event of this person is stored, so none named order."
    _post(acme, "cart")
    answer = _why(context, acme)
    assert answer.kind == explanations.NOT_SENT
    assert answer.sentence == ("The event order was never sent: the stored events of this person have other names.")


def test_a_false_filter_is_quoted_with_the_time_of_the_event(context: AppContext, acme: Sender) -> None:
    _apply(context, acme, on={"event": "order", "where": "data.total > 1000"})
    _post(acme, "order", data={"total": 5})
    answer = _why(context, acme)
    assert answer.kind == explanations.NOT_STARTED
    assert answer.event is not None
    assert answer.sentence.startswith("order at 20")
    assert answer.sentence.endswith(" came, but the filter data.total > 1000 was false.")


def test_once_per_period_is_named_after_the_run_that_used_it(context: AppContext, acme: Sender) -> None:
    _apply(context, acme, again="7d")
    assert len(_post(acme)) == 1
    assert _post(acme) == []
    sentence = _why(context, acme).sentence
    assert sentence.startswith("It started at 20")
    assert sentence.endswith(" matched, but the person is limited: at most once in 1w.")


def test_once_per_period_is_named_when_the_run_is_gone(context: AppContext, acme: Sender) -> None:
    _apply(context, acme, again="once")
    _post(acme)
    _post(acme)
    with context.database.transaction() as connection:
        run_sql(connection, "DELETE FROM runs WHERE account_id = :account", {"account": acme.account_id})
    sentence = _why(context, acme).sentence
    assert "matched, but the person is limited: once; it last started at 20" in sentence


def test_a_disabled_workflow_says_since_when_and_by_whom(context: AppContext, acme: Sender) -> None:
    _apply(context, acme)
    workflows.disable_workflow(context.acting_as(Actor("zoe", "cli")), acme.account_id, "watch")
    _post(acme)
    answer = _why(context, acme)
    assert answer.kind == explanations.DISABLED
    assert answer.sentence.startswith("The workflow is disabled since 20")
    assert answer.sentence.endswith(" (by zoe).")


def test_a_draft_was_never_enabled(context: AppContext, acme: Sender) -> None:
    workflows.save_draft(context, acme.account_id, a_workflow())
    assert _why(context, acme).sentence == "The workflow was never enabled."


def test_a_pattern_that_is_under_way_says_what_it_waits_for(context: AppContext, acme: Sender) -> None:
    _apply(context, acme, on={"seq": ["cart", "order"], "within": "1d"})
    _post(acme, "cart")
    answer = _why(context, acme)
    assert answer.kind == explanations.WAITS
    assert answer.sentence.startswith("It has not started yet: waits for order until 20")


def test_an_event_before_the_workflow_was_enabled_says_so(context: AppContext, acme: Sender) -> None:
    _post(acme)
    _apply(context, acme)
    assert "came when the workflow was not enabled" in _why(context, acme).sentence


def test_all_workflows_are_answered_by_name(context: AppContext, acme: Sender, globex: Sender) -> None:
    _apply(context, globex, name="theirs")
    for name in ("b", "a"):
        _apply(context, acme, name=name)
    _post(acme)
    answers = explain_starts(context, acme.account_id, PERSON)
    assert [(one.workflow, one.kind) for one in answers] == [("a", explanations.STARTED), ("b", explanations.STARTED)]
    assert explain_starts(context, globex.account_id, PERSON)[0].kind == explanations.NOT_SENT


def test_more_than_twenty_workflows_with_one_decision_have_each_an_answer(context: AppContext, acme: Sender) -> None:
    for number in range(22):
        where = f'data.product_id == "{number}"'
        _apply(context, acme, name=f"w{number:02}", on={"event": "product_view", "where": where})
    _post(acme, data={"product_id": "7"})
    kinds = {one.workflow: one.kind for one in explain_starts(context, acme.account_id, PERSON)}
    assert [name for name, kind in kinds.items() if kind == explanations.STARTED] == ["w07"]
    assert set(kinds.values()) == {explanations.STARTED, explanations.NOT_STARTED}


def test_an_unknown_workflow_is_refused(context: AppContext, acme: Sender) -> None:
    with pytest.raises(Problem, match="there is no workflow"):
        explain_starts(context, acme.account_id, PERSON, "missing")
