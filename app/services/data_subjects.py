"""One person: what is known of them, and how to forget them; and how to delete a workflow with all that it kept.

Comes in: the house, an account and a subject or a workflow. Goes out: frozen values. Each function is one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.core.errors import Problem, ProblemType
from app.db import accounts, erasure, inspection, match_state, workflows
from app.db.erasure import Erased
from app.db.inspection import EventsWanted, RunRow, RunsWanted, StoredEvent
from app.services.context import AppContext
from app.workflows.matching.describe import describe
from app.workflows.validate import compile_stored


@dataclass(frozen=True, slots=True)
class ProgressStory:
    """Where a subject stands in one workflow, in words."""

    workflow: str
    stands: str
    deadline: datetime | None
    last_started_at: datetime | None


@dataclass(frozen=True, slots=True)
class SubjectStory:
    """A person's latest events and runs, newest first, and their progress in every workflow."""

    events: Sequence[StoredEvent]
    runs: Sequence[RunRow]
    progress: Sequence[ProgressStory]


def subject_story(context: AppContext, account_id: int, subject: str, limit: int) -> SubjectStory:
    """What is known of a subject; at most `limit` events and runs."""
    moment = context.clock()
    with context.database.transaction() as connection:
        inspection.be_patient(connection)
        return SubjectStory(
            events=inspection.find_latest_events(connection, account_id, EventsWanted(subject=subject), limit),
            runs=inspection.find_latest_runs(connection, account_id, RunsWanted(subject=subject), limit),
            progress=[
                ProgressStory(row.workflow, _stands(row, moment), row.state.deadline, row.state.last_started_at)
                for row in match_state.find_progress_of_subject(connection, account_id, subject)
            ],
        )


def _stands(row: match_state.ProgressRow, moment: datetime) -> str:
    if row.enabled_version is None:
        return "the workflow is disabled"
    if row.state.enablement != row.enablement:
        return "nothing yet"
    found: Mapping[str, object] = row.state.progress or {}
    return describe(compile_stored(row.workflow, row.document).pattern, dict(found), moment)


def erase_subject(context: AppContext, account_id: int, subject: str) -> Erased:
    """Delete all that is kept of a subject: events, idempotency keys, runs with their steps and attempts, targets that
    these runs found gone, and progress with its deadlines, also where a workflow's key is another value of its events.

    Runs of others that used one of the events stay, without it. What was counted in metrics and sent out stays, too.
    """
    with context.database.transaction() as connection:
        inspection.be_patient(connection)
        return erasure.erase_subject(connection, account_id, subject)


def delete_workflow(context: AppContext, account_id: int, name: str) -> Erased:
    """Delete a workflow: its versions, progress and runs. Events keep what it decided about them."""
    with context.database.transaction() as connection:
        inspection.be_patient(connection)
        accounts.increment_version(connection, account_id)
        found = workflows.find_workflow(connection, account_id, name)
        if found is None:
            raise Problem(ProblemType.NOT_FOUND, f"there is no workflow {name!r}; `flask workflow list` shows all")
        return erasure.erase_workflow(connection, account_id, found.id)
