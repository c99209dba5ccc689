"""`signalbox refusal …`: list refused requests, explain them, and replay what they sent."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

import click

from app.cli.base import (
    account_option,
    command,
    confirm,
    context,
    get_account,
    get_owner_id,
    owner_option,
    read_time_option,
    yes_option,
)
from app.cli.lists import Page, filtered, json_line, list_options, print_list
from app.cli.program import with_program
from app.cli.refusal_report import refusal_lines, replayed_lines
from app.cli.terminal_text import counted, visible
from app.core.api_keys import read_prefix, shown_prefix
from app.core.errors import URN_PREFIX
from app.core.ids import utc_text
from app.db.refusals import RefusalFilter, RefusalRow
from app.services import inspection, refusals

_WIDTHS = (27, 36, 6, 24, 28, 12)
_JSON_FIELDS = (
    "id", "account_id", "refused_at", "route", "key_prefix", "status", "type", "detail", "errors", "items", "request_id",
    "idempotency_key", "content_type", "content_encoding", "body_bytes", "replayable", "not_kept", "replayed_at",
    "replayed_event_id",
)  # fmt: skip

group = click.Group("refusal", help="Refused requests: list and explain them, replay what they sent.")


def filter_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that choose refusals; `function` gets them as `wanted`."""

    @click.option("--status", type=click.IntRange(200, 599), help="Only this HTTP status; 207: parts of batches.")
    @click.option("--type", "problem", metavar="TYPE", help="Only this problem type, such as validation-failed.")
    @click.option("--key", metavar="KEY", help="Only requests with this API key or of this client: prefix or name.")
    @click.option("--route", metavar="PATH", help="Only requests of this path, such as /api/v1/cvf-events.")
    @click.option("--request-id", metavar="ID", help="Only the request whose response had this X-Request-Id.")
    @click.option("--since", metavar="WHEN", help="Such as 1h, 2d or 2026-11-22T10:00Z.")
    @click.option("--until", metavar="WHEN", help="The same; refusals of this time and later are left out.")
    @functools.wraps(function)
    def run(
        *args: Any,
        status: int | None,
        problem: str | None,
        key: str | None,
        route: str | None,
        request_id: str | None,
        since: str | None,
        until: str | None,
        **options: Any,
    ) -> None:
        wanted = RefusalFilter(
            status=status,
            type=None if problem is None else problem.removeprefix(URN_PREFIX),
            key_prefix=None if key is None else read_prefix(key),
            key_name=key,
            route=route,
            request_id=request_id,
            since=read_time_option("--since", since),
            until=read_time_option("--until", until),
        )
        function(*args, wanted=wanted, **options)

    return run


@group.command("list")
@list_options
@account_option
@command
@filter_options
def list_(account: str | None, page: Page, wanted: RefusalFilter) -> None:
    """List refused requests, newest first. Columns: time, id, status, type, path, key, what was wrong."""
    account_id = get_account(account).id
    print_list(
        page,
        filtered(refusals.find_latest_refusals, account_id, wanted),
        cursor=lambda refusal: refusal.id,
        cells=_cells,
        widths=_WIDTHS,
        as_json=lambda refusal: json_line(_members(refusal)),
    )


def _members(refusal: RefusalRow) -> dict[str, Any]:
    return {name: getattr(refusal, name) for name in _JSON_FIELDS}


def _cells(refusal: RefusalRow) -> tuple[object, ...]:
    more = f"; {refusal.not_kept:,} more were not kept" if refusal.not_kept else ""
    replayed = "; replayed" if refusal.replayed_at else ""
    detail = f"{refusal.detail}{replayed}{more}"
    when = utc_text(refusal.refused_at)
    return when, refusal.id, refusal.status, refusal.type, refusal.route, shown_prefix(refusal.key_prefix), detail


@group.command("show")
@click.argument("id", type=click.UUID)
@click.option("--raw", is_flag=True, help="Only write the body, as it is kept, to standard output.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the body as text.")
@owner_option
@command
def show(id: UUID, raw: bool, as_json: bool, account: str | None) -> None:
    """Explain refusal ID, and show its body.

    Shows who sent what, why it was refused, and whether it was replayed.
    """
    if raw and as_json:
        raise click.UsageError("expected either --raw or --json")
    owner = get_owner_id(account, "refusal", id, refusals.find_owners_of_refusal)
    refusal = refusals.find_refusal(context(), owner, id)
    body = refusals.find_body(context(), refusal)
    if raw:
        if body is None:
            raise click.ClickException("the body is not kept")
        click.echo(body, nl=False)
        return
    readable = None if body is None else inspection.readable_body(context(), body, refusal.content_encoding)
    if as_json:
        text = None if readable is None else readable.decode(errors="backslashreplace")
        click.echo(json_line(_members(refusal) | {"body": text}))
        return
    slug = get_account(str(owner)).slug
    for line in refusal_lines(refusal, readable, slug):
        click.echo(with_program(line, slug))


@group.command("replay")
@click.argument("ids", nargs=-1, metavar="[ID]...", type=click.UUID)
@click.option("--dry-run", is_flag=True, help="Only print what would be replayed.")
@yes_option
@owner_option
@command
@filter_options
def replay(ids: tuple[UUID, ...], dry_run: bool, yes: bool, account: str | None, wanted: RefusalFilter) -> None:
    """Replay refused requests by ID or by options, oldest first.

    What they have sent is accepted as if it came now, under the account's present settings. A refusal that was replayed is not
    replayed again. The exit code is 1 if something is refused again.
    """
    if bool(ids) == (wanted != RefusalFilter()):
        raise click.UsageError("expected either IDs, or options that choose refusals, such as --since 1h")
    chosen = _find_named(ids, account) if ids else _find_matching(account, wanted)
    if not chosen:
        click.echo("no refusal that can be replayed is left")
        return
    if dry_run:
        click.echo(f"would replay {counted(len(chosen), 'refusal')}")
        return
    if not ids and not yes:
        confirm(f"Replay {counted(len(chosen), 'refusal')}?")
    if not _replay_all(chosen):
        sys.exit(1)


def _find_named(ids: Sequence[UUID], account: str | None) -> list[tuple[int, UUID]]:
    """The refusals with these ids: their accounts, and the ids."""
    found = [(get_owner_id(account, "refusal", id, refusals.find_owners_of_refusal), id) for id in dict.fromkeys(ids)]
    for owner, id in found:
        refusals.find_refusal(context(), owner, id)
    return found


def _find_matching(account: str | None, wanted: RefusalFilter) -> list[tuple[int, UUID]]:
    """The refusals that pass the filter, can be replayed and were not, oldest first; prints how many they are."""
    owner = get_account(account).id
    plan = refusals.plan_replay(context(), owner, wanted)
    for (kind, path), count in plan.kinds.most_common():
        click.echo(visible(f"{counted(count, 'refusal')}: {kind} on {path}"), err=True)
    return [(owner, one.id) for one in plan.chosen]


def _replay_all(chosen: Sequence[tuple[int, UUID]]) -> bool:
    """Replay refusals and print a line for each; whether all were accepted."""
    from app.ingest.refusals_replay import Replayer

    stored, accepted = 0, 0
    with closing(Replayer(context())) as replayer:
        for owner, id in chosen:
            replayed = replayer.replay(refusals.find_refusal(context(), owner, id))
            stored += replayed.stored
            accepted += not replayed.refused
            for line in replayed_lines(id, replayed):
                click.echo(line, err=bool(replayed.refused))
    click.echo(f"{accepted:,} of {counted(len(chosen), 'refusal')} accepted: {counted(stored, 'new event')}")
    return accepted == len(chosen)
