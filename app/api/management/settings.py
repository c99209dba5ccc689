"""What a key may read and change of its own account: settings, plan and usage, retention, and the audit log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from app.api.management.access import current, current_account
from app.api.management.fields import read_page
from app.api.management.request_body import invalid
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.accounts import AccountSchema
from app.api.management.schemas.settings import (
    AuditQuery,
    ChangedAccountSchema,
    ChangedRetentionSchema,
    EntryPageSchema,
    RetentionSchema,
    UsageSchema,
    WholeAuditQuery,
    WholeEntryPageSchema,
)
from app.core.models import AUDIT_READ, OPERATOR, PLANS, SETTINGS_READ, SETTINGS_WRITE
from app.db.accounts import AccountDetails
from app.db.audit import EntryFilter
from app.db.retention import KINDS
from app.services import accounts, audit, retention

blueprint = Blueprint("settings", __name__, description="The account: settings, usage, retention, and the audit log.")


@route(blueprint, "GET", "/account", SETTINGS_READ, answer=AccountSchema)
def show_account() -> Any:
    """Show the account"""
    return current_account()


@route(blueprint, "PATCH", "/account", SETTINGS_WRITE, body=ChangedAccountSchema, answer=AccountSchema)
def change_account(body: dict[str, Any]) -> Any:
    """Change the settings of the account

    They apply to the next event.
    """
    access = current()
    blueprint.check_etag(current_account(), AccountSchema)
    accounts.update_account_details(access.context, access.account_id, AccountDetails(**body))
    return current_account()


@route(blueprint, "GET", "/account/usage", SETTINGS_READ, answer=UsageSchema)
def show_usage() -> Any:
    """Show plan and usage

    The events of the last hour and the last 24 hours.
    """
    access, account = current(), current_account()
    last_hour, last_day = accounts.count_latest_events(access.context, access.account_id)
    return {
        "plan": account.plan,
        "events_per_second": account.events_per_second or PLANS[account.plan].events_per_second,
        "ends_at": account.plan_ends_at,
        "last_hour": last_hour,
        "last_day": last_day,
    }


@route(blueprint, "GET", "/account/retention", SETTINGS_READ, answer=RetentionSchema)
def show_retention() -> Any:
    """Show the retention

    How long the account keeps each kind of rows.
    """
    return _retention()


def _retention() -> dict[str, Any]:
    access = current()
    found = retention.find_retention(access.context, access.account_id)
    return {
        "items": [
            {"kind": one.kind.name, "keep": retention.write_keep(one.keep), "is_default": one.is_default}
            for one in found
        ]
    }


@route(blueprint, "PATCH", "/account/retention", SETTINGS_WRITE, body=ChangedRetentionSchema, answer=RetentionSchema)
def change_retention(body: dict[str, Any]) -> Any:
    """Change the retention

    Rows that are older are deleted for good.
    """
    access = current()
    blueprint.check_etag(_retention(), RetentionSchema)
    change = _read_change(body["keep"])
    retention.change_retention(access.context, access.account_id, current_account().slug, change.keep, change.reset)
    return _retention()


def _read_change(texts: dict[str, str]) -> retention.WrittenChange:
    """Raises Problem 422."""
    kinds = [kind.name for kind in KINDS]
    change = retention.read_change(texts)
    unknown = {kind: f"is unknown; the kinds are {', '.join(kinds)}" for kind in texts if kind not in kinds}
    if errors := {**change.errors, **unknown}:
        raise invalid([{"field": f"keep.{kind}", "message": message} for kind, message in sorted(errors.items())])
    return change


@route(blueprint, "GET", "/audit", AUDIT_READ, query=AuditQuery, answer=EntryPageSchema)
def list_audit(query: dict[str, Any]) -> Any:
    """List the audit log

    Who changed what, the newest first. `after` is the id of an entry.
    """
    wanted = EntryFilter(current().account_id, object_id=query.get("object"), since=query.get("since"))
    return _entries(query, wanted)


def _entries(query: dict[str, Any], wanted: EntryFilter) -> Any:
    context = current().context
    return read_page(
        query,
        lambda after, limit: audit.list_entries(context, replace(wanted, before=after), limit),
        lambda entry: entry.id,
    )


@route(
    blueprint,
    "GET",
    "/audit/all",
    OPERATOR,
    more_scopes=(AUDIT_READ,),
    query=WholeAuditQuery,
    answer=WholeEntryPageSchema,
)
def list_whole_audit(query: dict[str, Any]) -> Any:
    """List the audit log of all accounts

    The newest first, with what concerns no single account, such as users. For keys with the scope `operator`.
    """
    return _entries(query, EntryFilter(since=query.get("since")))
