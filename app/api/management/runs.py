"""Shows runs step by step; retries and cancels one, or many."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from app.api.management.access import current
from app.api.management.fields import read_filtered_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.runs import (
    BulkAnswerSchema,
    BulkRetrySchema,
    BulkSchema,
    FailureQuery,
    FailuresSchema,
    RetriedSchema,
    RunDetailsSchema,
    RunPageSchema,
    RunQuery,
    RunSchema,
)
from app.core.errors import Problem, ProblemType
from app.core.models import RUNS_READ, RUNS_WRITE
from app.db.inspection import RunFilter
from app.services import failures, inspection, runs
from app.services.inspection import RunDetails

blueprint = Blueprint("runs", __name__, description="Runs: executions of workflows, step by step.")
_OF_FIRST = {"run_id": "$response.body#/items/0/id"}
_FIELDS = tuple(RunSchema().fields)
# Steps and blocks of a run that one answer has. A run may enter 20,000 steps, whose outputs and attempts have kilobytes.
MAX_STEPS = 1_000


@route(
    blueprint,
    "GET",
    "/runs",
    RUNS_READ,
    query=RunQuery,
    answer=RunPageSchema,
    links={
        "show": {"operationId": "show_run", "parameters": _OF_FIRST},
        "retry": {"operationId": "retry_run", "parameters": _OF_FIRST},
        "cancel": {"operationId": "cancel_run", "parameters": _OF_FIRST},
    },
)
def list_runs(query: dict[str, Any]) -> Any:
    """List runs

    The newest first, without parallel blocks. `after` is the id of a run.
    """
    filters = {name: value for name, value in query.items() if name not in ("limit", "after")}
    wanted = RunFilter(failed=query.get("status") == "failed", **filters)
    return read_filtered_page(query, inspection.find_latest_runs, wanted)


@route(blueprint, "GET", "/runs/failures", RUNS_READ, query=FailureQuery, answer=FailuresSchema)
def list_failures(query: dict[str, Any]) -> Any:
    """List what failed

    Failed runs grouped by target and error, the latest first: at most 100 groups of the latest 10,000 failed runs.
    """
    access = current()
    since = query.get("since") or access.context.clock() - failures.DEFAULT_PERIOD
    found = failures.find_failures(access.context, access.account_id, since, query.get("workflow"))
    return {"items": found.groups, "is_complete": found.is_complete}


@route(blueprint, "GET", "/runs/<uuid:run_id>", RUNS_READ, answer=RunDetailsSchema)
def show_run(run_id: UUID) -> Any:
    """Show a run

    With its timeline: each step, each attempt with its request and response, and parallel blocks. Of a long run, the latest 1,000
    steps and attempts; `signalbox run show` shows all.
    """
    access = current()
    found = inspection.find_run_details(access.context, access.account_id, run_id, limit=MAX_STEPS)
    if found is None:
        raise _no_run(run_id)
    return _shown(found)


def _no_run(run_id: UUID) -> Problem:
    return Problem(ProblemType.NOT_FOUND, f"The account has no run {run_id}.")


def _shown(details: RunDetails) -> dict[str, Any]:
    return {
        **{name: getattr(details.run, name) for name in _FIELDS},
        "matched": details.run.matched,
        "steps": details.steps,
        "attempts": details.attempts,
        "blocks": [_shown(block) for block in details.blocks],
    }


@route(blueprint, "POST", "/runs/<uuid:run_id>/retry", RUNS_WRITE, answer=RetriedSchema)
def retry_run(run_id: UUID) -> Any:
    """Retry a failed run

    At the failed step, with the same idempotency keys.
    """
    access = _find(run_id)
    return {"id": run_id, "changed": bool(runs.retry_runs(access.context, access.account_id, [run_id]))}


@route(blueprint, "POST", "/runs/<uuid:run_id>/cancel", RUNS_WRITE, answer=RetriedSchema)
def cancel_run(run_id: UUID) -> Any:
    """Cancel a running run

    With all its parallel blocks. A step that is being executed ends, and no other begins.
    """
    access = _find(run_id)
    return {"id": run_id, "changed": bool(runs.cancel_runs(access.context, access.account_id, [run_id]))}


def _find(run_id: UUID) -> Any:
    """The access to a run that exists. Raises Problem 404."""
    access = current()
    if inspection.find_run(access.context, access.account_id, run_id) is None:
        raise _no_run(run_id)
    return access


@route(blueprint, "POST", "/runs/retry", RUNS_WRITE, body=BulkRetrySchema, answer=BulkAnswerSchema)
def retry_runs(body: dict[str, Any]) -> Any:
    """Retry many failed runs

    Those that pass the filters, at most 500. Unless `dry_run` is false they are only counted. With `until`, those that fail again
    are not retried by the next call.
    """
    return _change_many(body, "failed")


@route(blueprint, "POST", "/runs/cancel", RUNS_WRITE, body=BulkSchema, answer=BulkAnswerSchema)
def cancel_runs(body: dict[str, Any]) -> Any:
    """Cancel many running runs

    Those that pass the filters, at most 500. Unless `dry_run` is false they are only counted.
    """
    return _change_many(body, "running")


def _change_many(body: dict[str, Any], status: str) -> dict[str, Any]:
    access, is_failed = current(), status == "failed"
    filters = {name: value for name, value in body.items() if name != "dry_run"}
    wanted = RunFilter(failed=is_failed, status=status, **filters)
    found, has_more = runs.plan_runs(access.context, access.account_id, wanted)
    changed: set[UUID] = set()
    if not body["dry_run"]:
        change = runs.retry_runs if is_failed else runs.cancel_runs
        ids = [run.id for run in found]
        changed = change(access.context, access.account_id, ids, chosen_by=filters or None)
    return {"count": len(found), "has_more": has_more, "changed": len(changed)}
