"""`signalbox audit list`: who changed what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace

import click

from app.cli.base import command, context, get_account, parse_option, read_time_option
from app.cli.lists import Page, json_line, list_options, print_list, read_id
from app.core.ids import utc_text
from app.db.audit import Entry, EntryFilter
from app.services import audit

group = click.Group("audit", help="The audit log: who changed what, and when.")


@group.command("list")
@click.argument("account", required=False)
@click.option("--actor", metavar="NAME", help="Only changes of this user, OAuth client (cl_…) or API key (sb_PREFIX).")
@click.option(
    "--action", metavar="ACTION", help="Such as workflow.disable, or workflow for all that concern workflows."
)
@click.option("--object", "object_id", metavar="ID", help="Such as the name of a workflow, or the id of a run.")
@click.option("--since", metavar="WHEN", help="Such as 1h, 2d or 2026-11-22T10:00Z.")
@list_options
@command
def list_(
    account: str | None, actor: str | None, action: str | None, object_id: str | None, since: str | None, page: Page
) -> None:
    """List the changes of ACCOUNT, or of all accounts, newest first.

    Columns: when, account, who, through what, action, object, and what has changed.
    """
    owner = get_account(account).id if account else None
    wanted = EntryFilter(owner, actor, action, object_id, read_time_option("--since", since))
    print_list(
        page,
        lambda after, limit: audit.list_entries(
            context(), replace(wanted, before=parse_option("--after", read_id, after)), limit
        ),
        cursor=lambda entry: entry.id,
        cells=entry_cells,
        widths=(27, 16, 16, 6, 18, 20),
        as_json=lambda entry: json_line(asdict(entry)),
    )


def entry_cells(entry: Entry) -> tuple[object, ...]:
    """An entry as the cells of a line."""
    account = entry.account or ("-" if entry.account_id is None else entry.account_id)
    changed = ", ".join(_changes(entry))
    return utc_text(entry.at), account, entry.actor, entry.via, entry.action, entry.object_id or "-", changed


def _changes(entry: Entry) -> Iterator[str]:
    """Each member that has changed: `plan: "trial" → "standard"`."""
    before, after = entry.before or {}, entry.after or {}
    for name in {**before, **after}:
        new = _text(after[name]) if name in after else "-"
        yield f"{name}: {_text(before[name])} → {new}" if name in before else f"{name}: {new}"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
