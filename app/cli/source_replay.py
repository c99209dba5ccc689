"""`signalbox source replay`: map stored deliveries again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from uuid import UUID

import click

from app.cli.base import account_option, command, confirm, context, get_account, read_time_option, yes_option
from app.cli.program import paste
from app.cli.terminal_text import counted, visible
from app.db.deliveries import ACCEPTED, UNMAPPED, WAITING, DeliveryFilter
from app.services import deliveries, sources
from app.services.deliveries import ReplayPlan

# Problems that the plan and the result name.
_MAX_PROBLEMS = 10


@click.command("replay")
@click.argument("name")
@click.option("--delivery", "ids", multiple=True, type=click.UUID, metavar="ID", help="Only this one; may be repeated.")
@click.option("--since", metavar="WHEN", help="Only what was received since then, such as 1h, 2d or 2026-11-22T10:00Z.")
@click.option("--until", metavar="WHEN", help="The same; deliveries of this time and later are left out.")
@click.option(
    "--without-events",
    is_flag=True,
    help="Those that were accepted without events instead, because `where` was never true.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be mapped again.")
@account_option
@yes_option
@command
def replay(
    name: str,
    ids: tuple[UUID, ...],
    since: str | None,
    until: str | None,
    without_events: bool,
    dry_run: bool,
    account: str | None,
    yes: bool,
) -> None:
    """Map the deliveries of source NAME again that were not mapped, or only in part, oldest first.

    The current version of the source maps them. Events that were stored before are not stored again; the others are received now,
    and start workflows. The exit code is 1 if something cannot be mapped.
    """
    if ids and (since or until or without_events):
        raise click.UsageError("expected either --delivery, or --since, --until and --without-events")
    account_id = get_account(account).id
    source = sources.find_source(context(), account_id, name)
    sources.check_enabled(source)
    if ids:
        plan = ReplayPlan([_check_owner(account_id, source.id, one) for one in dict.fromkeys(ids)])
    else:
        wanted = _read_filter(source.id, since, until, without_events=without_events)
        plan = deliveries.plan_replay(context(), account_id, wanted)
    if not plan.ids:
        click.echo(f"{name}: all deliveries {'have events' if without_events else 'are mapped'}")
        return
    for line in _plan_lines(plan):
        click.echo(line, err=True)
    count = counted(len(plan.ids), "delivery")
    if dry_run:
        click.echo(f"would map {count} again")
        return
    if not ids and not yes:
        confirm(f"Map {count} again by version {source.latest_version} of {name}?")
    if not _replay_all(account_id, name, plan.ids):
        sys.exit(1)


def _read_filter(source_id: UUID, since: str | None, until: str | None, *, without_events: bool) -> DeliveryFilter:
    return DeliveryFilter(
        source_id,
        (ACCEPTED,) if without_events else WAITING,
        since=read_time_option("--since", since),
        until=read_time_option("--until", until),
        without_events=without_events,
    )


def _check_owner(account_id: int, source_id: UUID, delivery_id: UUID) -> UUID:
    """The id of a delivery of the source."""
    found = deliveries.find_delivery(context(), account_id, delivery_id)
    if found.source_id != source_id:
        raise click.ClickException(f"{delivery_id} is a delivery to the source {found.source or '(deleted)'}")
    return delivery_id


def _plan_lines(plan: ReplayPlan) -> Iterator[str]:
    for (result, problem), count in plan.problems.most_common(_MAX_PROBLEMS):
        yield visible(f"{count:,} {result}: {problem}")
    if len(plan.problems) > _MAX_PROBLEMS:
        yield f"and {len(plan.problems) - _MAX_PROBLEMS:,} other problems"


def _replay_all(account_id: int, name: str, chosen: Sequence[UUID]) -> bool:
    """Map deliveries again, and print what became of them; whether all are mapped."""
    from app.ingest.sources.delivery_replay import DeliveryReplayer, ReplayResult

    replayer, result = DeliveryReplayer(context(), account_id), ReplayResult()
    replayer.record(name, chosen)
    for one in chosen:
        before = len(result.failures)
        replayer.replay_into(result, one)
        for _, reason in result.failures[before:_MAX_PROBLEMS]:
            click.echo(visible(f"delivery {one}: {reason}"), err=True)
    if len(result.failures) > _MAX_PROBLEMS:
        more = paste("delivery", "list", "--source", name, "--result", UNMAPPED)
        click.echo(f"and {len(result.failures) - _MAX_PROBLEMS:,} more; {more} lists them", err=True)
    earlier = f", {result.duplicates:,} stored before" if result.duplicates else ""
    click.echo(f"{result.mapped:,} of {len(chosen):,} mapped: {counted(result.stored, 'new event')}{earlier}")
    return result.mapped == len(chosen)
