"""Checks documents of workflows, saves them as versions, compares these, and enables workflows."""

from __future__ import annotations

from typing import Any

from app.api.management.access import Access, current
from app.api.management.fields import PageByNameQuery, read_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.workflow_activity import ActivitySchema
from app.api.management.schemas.workflows import (
    ChangedWorkflowSchema,
    CheckedSchema,
    DifferenceQuery,
    DifferenceSchema,
    DisabledSchema,
    DisableSchema,
    DocumentSchema,
    EnableSchema,
    NewWorkflowSchema,
    SavedVersionSchema,
    VersionPageSchema,
    VersionQuery,
    WorkflowPageSchema,
    WorkflowSchema,
)
from app.core.models import EVENTS_READ, RUNS_READ, WORKFLOWS_READ, WORKFLOWS_WRITE
from app.db.workflows import WorkflowRow
from app.services import differences, workflow_activity, workflows

blueprint = Blueprint("workflows", __name__, description="Workflows: versioned documents that start runs.")
_OF_NAME = {"name": "$response.body#/name"}


@route(blueprint, "GET", "/workflows", WORKFLOWS_READ, query=PageByNameQuery, answer=WorkflowPageSchema)
def list_workflows(query: dict[str, Any]) -> Any:
    """List workflows

    By name, without their documents. `after` is a name.
    """
    access = current()
    return read_page(
        query,
        lambda after, limit: workflow_activity.list_names(
            access.context, access.account_id, after=after or "", limit=limit
        ),
        lambda row: row.name,
    )


@route(
    blueprint,
    "POST",
    "/workflows",
    WORKFLOWS_WRITE,
    body=NewWorkflowSchema,
    answer=WorkflowSchema,
    status=201,
    links={
        "show": {"operationId": "show_workflow", "parameters": _OF_NAME},
        "list_versions": {"operationId": "list_versions", "parameters": _OF_NAME},
        "disable": {"operationId": "disable_workflow", "parameters": _OF_NAME},
    },
)
def create_workflow(body: dict[str, Any]) -> Any:
    """Create a workflow

    From a document, which names it. 409 when there is a workflow with this name.
    """
    access, source = current(), body["source"]
    applied = workflows.save_edited(access.context, access.account_id, source, 0, enable=body["enable"])
    return _find(access, applied.name)


def _find(access: Access, name: str) -> WorkflowRow:
    return workflows.find_workflow(access.context, access.account_id, name)


@route(blueprint, "POST", "/workflow-check", WORKFLOWS_READ, body=DocumentSchema, answer=CheckedSchema, takes_key=False)
def check_workflow(body: dict[str, Any]) -> Any:
    """Check a document

    Saves nothing. The answer has all mistakes, secrets that the account lacks included.
    """
    access = current()
    name, mistakes = workflows.check_in_account(access.context, access.account_id, body["source"])
    return {"name": name, "mistakes": mistakes}


@route(blueprint, "GET", "/workflows/<name>", WORKFLOWS_READ, answer=WorkflowSchema)
def show_workflow(name: str) -> Any:
    """Show a workflow

    With the document of its newest version.
    """
    return _find(current(), name)


@route(blueprint, "PUT", "/workflows/<name>", WORKFLOWS_WRITE, body=ChangedWorkflowSchema, answer=WorkflowSchema)
def change_workflow(body: dict[str, Any], name: str) -> Any:
    """Save a new version

    Runs stay on the version that started them. An unchanged text makes no version.
    """
    access, enable = current(), body["enable"]
    known = _find(access, name)
    blueprint.check_etag(known, WorkflowSchema)
    enable = known.enabled_version is not None if enable is None else enable
    after = known.latest_version
    workflows.save_edited(access.context, access.account_id, body["source"], after, enable=enable, name=name)
    return _find(access, name)


@route(blueprint, "DELETE", "/workflows/<name>", WORKFLOWS_WRITE, status=204)
def delete_workflow(name: str) -> None:
    """Delete a workflow

    With its versions, progress and runs. 409 for one with more than 20,000 runs, or subjects with progress:
    `signalbox workflow delete` deletes it.
    """
    access = current()
    blueprint.check_etag(_find(access, name), WorkflowSchema)
    workflows.delete_workflow(access.context, access.account_id, name, at_once=True)


@route(blueprint, "POST", "/workflows/<name>/enable", WORKFLOWS_WRITE, body=EnableSchema, answer=WorkflowSchema)
def enable_workflow(body: dict[str, Any], name: str) -> Any:
    """Enable a workflow

    It looks at events from now on.
    """
    access = current()
    workflows.enable_workflow(access.context, access.account_id, name, body["version"])
    return _find(access, name)


@route(
    blueprint,
    "POST",
    "/workflows/<name>/disable",
    WORKFLOWS_WRITE,
    body=DisableSchema,
    answer=DisabledSchema,
    is_atomic=False,
)
def disable_workflow(body: dict[str, Any], name: str) -> Any:
    """Disable a workflow

    It looks at no further event. 409 when more than 5,000 runs would be cancelled: `signalbox workflow disable` does that.
    """
    access, cancel_runs = current(), body["cancel_runs"]
    cancelled = workflows.disable_workflow(
        access.context, access.account_id, name, cancel_runs=cancel_runs, at_once=True
    )
    return {"name": name, "cancelled_runs": cancelled}


@route(
    blueprint,
    "GET",
    "/workflows/<name>/activity",
    WORKFLOWS_READ,
    more_scopes=(EVENTS_READ, RUNS_READ),
    answer=ActivitySchema,
)
def show_activity(name: str) -> Any:
    """Show what a workflow does

    Its starts and failures in each of the last seven times 24 hours, the runs that are at each step, and the latest events that
    did not start it, with the reasons.
    """
    access = current()
    found = workflow_activity.find_details(access.context, _find(access, name))
    return {
        "starts": found.activity.starts,
        "failed": found.activity.failed,
        "running": [{"at": at, "runs": count} for at, count in found.activity.running],
        "waiting": found.waiting,
        "on_the_way": found.on_the_way,
        "not_started": found.not_started,
    }


@route(blueprint, "GET", "/workflows/<name>/versions", WORKFLOWS_READ, query=VersionQuery, answer=VersionPageSchema)
def list_versions(query: dict[str, Any], name: str) -> Any:
    """List the versions of a workflow

    The newest first, without their documents. `after` is a version.
    """
    access = current()
    known = _find(access, name)
    return read_page(
        query,
        lambda after, limit: workflow_activity.list_versions(access.context, known, before=after, limit=limit),
        lambda row: row.version,
    )


@route(blueprint, "GET", "/workflows/<name>/versions/<int:version>", WORKFLOWS_READ, answer=SavedVersionSchema)
def show_version(name: str, version: int) -> Any:
    """Show the document of a version"""
    return {"name": name, "version": version, "source": _source_of_version(name, version)}


def _source_of_version(name: str, version: int) -> str:
    access = current()
    return workflows.find_version(access.context, access.account_id, name, version)


@route(blueprint, "GET", "/workflows/<name>/difference", WORKFLOWS_READ, query=DifferenceQuery, answer=DifferenceSchema)
def show_difference(query: dict[str, Any], name: str) -> Any:
    """Compare two versions

    Line by line.
    """
    old, new = query["old"], query["new"]
    lines = differences.compare(_source_of_version(name, old), _source_of_version(name, new))
    return {"old": old, "new": new, "lines": lines}
