"""Shows and sets how long accounts keep what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.core.durations import read_duration, write_duration
from app.core.errors import Problem, ProblemType
from app.db import accounts, retention
from app.db.audit import Change
from app.db.retention import EVENTS, KINDS, RUNS, Kind
from app.services import audit
from app.services.context import AppContext

# What people write in place of a duration: nothing is deleted, or as accounts do that have set nothing.
FOREVER, DEFAULT = "forever", "default"

Rules = Mapping[int, Mapping[str, timedelta | None]]


@dataclass(frozen=True, slots=True)
class Retention:
    """How long an account keeps a kind of rows (None: for ever), and whether that is the default."""

    kind: Kind
    keep: timedelta | None
    is_default: bool


@dataclass(frozen=True, slots=True)
class WrittenChange:
    """A change of the retention that people wrote, by kind: new durations (None: for ever), defaults, and what cannot be read."""

    keep: dict[str, timedelta | None] = field(default_factory=dict)
    reset: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)


def read_change(texts: Mapping[str, str]) -> WrittenChange:
    """Reads a duration such as `90d`, FOREVER or DEFAULT for each kind."""
    change = WrittenChange()
    for kind, text in texts.items():
        if text == DEFAULT:
            change.reset.append(kind)
            continue
        try:
            change.keep[kind] = None if text == FOREVER else read_duration(text)
        except ValueError as exc:
            change.errors[kind] = str(exc)
    return change


def find_retention(context: AppContext, account_id: int) -> list[Retention]:
    """How long an account keeps each kind of rows."""
    with context.database.transaction() as connection:
        found = retention.find_retention(connection, account_id)
    return [Retention(kind, found.get(kind.name, kind.default), kind.name not in found) for kind in KINDS]


def find_shortened(
    context: AppContext, account_id: int, keep: Mapping[str, timedelta | None], reset: Sequence[str] = ()
) -> list[str]:
    """What `change_retention` would delete: the kinds that would be kept for a shorter time than now, in words."""
    shorter = []
    for one in find_retention(context, account_id):
        kind = one.kind
        if kind.name not in keep and kind.name not in reset:
            continue
        after = keep.get(kind.name, kind.default)
        if after is not None and (one.keep is None or after < one.keep):
            shorter.append(f"{kind.name} older than {write_keep(after)}")
    return shorter


def change_retention(
    context: AppContext, account_id: int, slug: str, keep: Mapping[str, timedelta | None], reset: Sequence[str] = ()
) -> None:
    """Set how long these kinds are kept (None: for ever), and reset those of `reset` to their defaults. Raises Problem 422."""
    for kind, duration in keep.items():
        shortest = next(one.shortest for one in KINDS if one.name == kind)
        if duration is not None and duration < shortest:
            raise Problem(
                ProblemType.VALIDATION_FAILED,
                f"{kind}: {write_keep(duration)} is too short; the shortest retention is {write_keep(shortest)}",
            )
    with context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        before = retention.find_retention(connection, account_id)
        retention.set_retention(connection, account_id, keep, context.clock())
        retention.reset_retention(connection, account_id, reset)
        after = retention.find_retention(connection, account_id)
        changed = audit.differences(_texts(before), _texts(after))
        if any(changed):
            audit.record(connection, context, Change("account.retention", account_id, slug, *changed))


def _texts(keep: Mapping[str, timedelta | None]) -> dict[str, str]:
    return {kind: write_keep(duration) for kind, duration in keep.items()}


def write_keep(keep: timedelta | None) -> str:
    """A retention as text, in days where it is whole days: `90d`; None: `forever`."""
    if keep is None:
        return FOREVER
    return write_duration(keep.total_seconds()) if keep % timedelta(days=1) else f"{keep.days}d"


def check_replayable(context: AppContext, account_id: int, received_at: datetime) -> None:
    """Raises Problem 409 for an event that is older than the account keeps runs or events: the run that says that its match has
    had one may be deleted."""
    with context.database.transaction() as connection:
        rules = {account_id: retention.find_retention(connection, account_id)}
    keeps = [keep for kind in (EVENTS, RUNS) if (keep := find_keep(rules, account_id, kind)) is not None]
    if keeps and received_at < context.clock() - min(keeps):
        raise Problem(
            ProblemType.CONFLICT,
            f"the event is older than {write_keep(min(keeps))}, for which the account keeps its runs and events: "
            "it may have started a run that was deleted",
        )


def find_keep(rules: Rules, account_id: int, kind: Kind) -> timedelta | None:
    """How long an account keeps a kind of rows (None: for ever), by the rules of all accounts that have some."""
    return rules.get(account_id, {}).get(kind.name, kind.default)
