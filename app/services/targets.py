"""Targets that keep failing or are disabled: saves their circuits, and lists them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from app.actions.circuit_breaker import CircuitChange
from app.core.exact_json import replace_unstorable
from app.core.ids import utc_text
from app.db import circuits
from app.db.circuits import OpenCircuit, TargetRow
from app.services.context import AppContext


def save_circuits(context: AppContext, changes: Iterable[CircuitChange]) -> None:
    """Save which circuits of a worker have opened or closed."""
    now = context.clock()
    # In one order, since several workers may write the same ones.
    ordered = sorted(changes, key=lambda change: (change.account_id, change.target))
    with context.database.transaction() as connection:
        for change in ordered:
            target = replace_unstorable(change.target)
            if not change.failures:
                circuits.delete_circuit(connection, change.account_id, target)
                continue
            opened_at = now - timedelta(seconds=change.open_for)
            retry_at = now + timedelta(seconds=change.retry_in)
            circuit = OpenCircuit(target, change.failures, opened_at, retry_at)
            circuits.save_open_circuit(connection, change.account_id, circuit)


def list_targets(
    context: AppContext, account_id: int, *, after: tuple[datetime, str] | None = None, limit: int = 1_000
) -> list[TargetRow]:
    """At most `limit` of an account's failing and disabled targets, the latest first: those after (since, target)."""
    with context.database.transaction() as connection:
        return circuits.list_targets(connection, account_id, after, limit, context.clock())


def write_cursor(row: TargetRow) -> str:
    """Where a page of targets ends, as `read_cursor` reads it."""
    return f"{utc_text(row.since)},{row.target}"


def read_cursor(text: str) -> tuple[datetime, str]:
    """The last target of a page: since when, and the target. Raises ValueError."""
    at, _, target = text.partition(",")
    since = datetime.fromisoformat(at)
    if since.tzinfo is None:
        raise ValueError("a time without an offset")
    try:
        return since.astimezone(UTC), target
    except OverflowError as exc:
        raise ValueError(str(exc)) from exc


def count_open_circuits(context: AppContext) -> tuple[int, int]:
    """How many circuits of all accounts are open, and how many runs they hold."""
    with context.database.transaction() as connection:
        return circuits.count_open_circuits(connection, context.clock())
