"""Idempotency keys: which event a key stands for. Remembered for RETENTION; an older row counts as absent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg2.extensions import connection as RawConnection

from app.core.durations import RETENTION
from app.db.connection import fetch_all


@dataclass(frozen=True, slots=True)
class EarlierEvent:
    """The event that an idempotency key stands for, and the SHA-256 digest of the body that it came with."""

    id: UUID
    digest: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A new idempotency key and its event, with the SHA-256 digest of the body."""

    key: str
    digest: bytes
    event_id: UUID
    received_at: datetime


def claim_keys(connection: RawConnection, account_id: int, claims: Iterable[Claim]) -> dict[str, EarlierEvent | None]:
    """Insert different idempotency keys; returns those that stand for earlier events (None: that row has just been deleted).

    Keys are inserted in sorted order, so that two batches with the same keys do not deadlock.
    """
    ordered = sorted(claims, key=lambda claim: claim.key)
    inserted = fetch_all(
        connection,
        "INSERT INTO idempotency_keys AS known (account_id, key, digest, event_id, received_at) "
        "SELECT %s, key, digest, event_id, received_at "
        "FROM unnest(%s::text[], %s::bytea[], %s::uuid[], %s::timestamptz[]) WITH ORDINALITY "
        "AS claim (key, digest, event_id, received_at, number) ORDER BY number "
        "ON CONFLICT (account_id, key) DO UPDATE "
        "SET digest = excluded.digest, event_id = excluded.event_id, received_at = excluded.received_at "
        "WHERE known.received_at < excluded.received_at - %s RETURNING key",
        (
            account_id,
            [claim.key for claim in ordered],
            [claim.digest for claim in ordered],
            [str(claim.event_id) for claim in ordered],
            [claim.received_at for claim in ordered],
            RETENTION,
        ),
    )
    taken = sorted({claim.key for claim in ordered} - {key for (key,) in inserted})
    return {**dict.fromkeys(taken), **find_earlier_events(connection, account_id, taken)} if taken else {}


def find_earlier_events(connection: RawConnection, account_id: int, keys: Iterable[str]) -> dict[str, EarlierEvent]:
    """The events that idempotency keys stand for."""
    rows = fetch_all(
        connection,
        "SELECT key, event_id, digest, received_at FROM idempotency_keys WHERE account_id = %s AND key = ANY (%s)",
        (account_id, list(keys)),
    )
    # On a SQLAlchemy connection ids are UUIDs, elsewhere text.
    return {key: EarlierEvent(UUID(str(event_id)), bytes(digest), at) for key, event_id, digest, at in rows}
