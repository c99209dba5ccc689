"""The message stream of an account, in the order of commits, and the tickets that open it.

The number of a message comes from a row that stays locked until the commit. A greater number is therefore committed later,
and a reader that continues after a number misses nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from app.core.durations import RETENTION
from app.core.models import Message
from app.db.connection import Database, delete_batch, run_sql

# A ticket must first be used within FIRST_USE, and is valid for VALID_FOR from then on.
FIRST_USE = timedelta(minutes=2)
VALID_FOR = timedelta(hours=12)
_EXACT_JSON = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message of a run's step (`ordinal`)."""

    id: UUID
    account_id: int
    run_id: UUID
    ordinal: int
    distinct_id: str
    text: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TicketRow:
    """A valid ticket: the account of its stream and the message number after which it starts."""

    account_id: int
    position: int
    used: bool


# Messages

# A step that is repeated takes no number and no lock.
_INSERT = """
WITH existing AS (
    SELECT id FROM messages WHERE account_id = :account_id AND run_id = :run_id AND ordinal = :ordinal
), counted AS (
    INSERT INTO streams AS stream (account_id, latest) SELECT :account_id, 1 WHERE NOT EXISTS (SELECT FROM existing)
    ON CONFLICT (account_id) DO UPDATE SET latest = stream.latest + 1
    RETURNING latest
), inserted AS (
    INSERT INTO messages (account_id, id, number, run_id, ordinal, distinct_id, text, data, created_at)
    SELECT :account_id, :id, latest, :run_id, :ordinal, :distinct_id, :text, CAST(:data AS jsonb), :now FROM counted
    ON CONFLICT (account_id, run_id, ordinal) DO NOTHING
    RETURNING id
)
SELECT id FROM existing UNION ALL SELECT id FROM inserted
"""


def insert_message(connection: sa.Connection, new: NewMessage, now: datetime) -> UUID:
    """Insert the message of a step, unless it has one; returns the id of the stored message."""
    values = {**asdict(new), "data": _EXACT_JSON.encode(new.data).decode(), "now": now}
    # No row: another worker has just committed the same message. It is visible to a second query.
    found: UUID | None = run_sql(connection, _INSERT, values).scalar()
    return found if found is not None else run_sql(connection, _INSERT, values).scalar_one()


# The size of the messages before each one: reading ends after the first that exceeds the maximum.
_AFTER = """
WITH next AS (
    SELECT id, number, run_id, distinct_id, text, data::text AS data, created_at FROM messages
    WHERE account_id = :account AND number > :number ORDER BY number LIMIT :limit
), sized AS (
    SELECT next.*, sum(octet_length(text) + octet_length(data)) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) AS size
    FROM next
)
SELECT id, run_id, distinct_id, text, data, created_at FROM sized
WHERE size - octet_length(text) - octet_length(data) < :bytes ORDER BY number
"""


def find_messages_after(
    connection: sa.Connection, account_id: int, number: int, limit: int, max_bytes: int = 1 << 30
) -> list[Message]:
    """Messages after a number, in stream order: at most `limit`, and no more after `max_bytes` of texts and data."""
    rows = run_sql(connection, _AFTER, {"account": account_id, "number": number, "limit": limit, "bytes": max_bytes})
    return [Message(*row) for row in rows]


def find_number(connection: sa.Connection, account_id: int, message_id: UUID, earlier: UUID) -> int:
    """The number of a message. For a message that is not stored: the number before the first message whose id is at least
    `earlier`, or the latest number."""
    number: int = run_sql(
        connection,
        "SELECT coalesce((SELECT number FROM messages WHERE account_id = :account AND id = :id), "
        "(SELECT min(number) - 1 FROM messages WHERE account_id = :account AND id >= :earlier), "
        "(SELECT latest FROM streams WHERE account_id = :account), 0)",
        {"account": account_id, "id": message_id, "earlier": earlier},
    ).scalar_one()
    return number


def forget_old_messages(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of messages that are older than RETENTION; returns how many."""
    return delete_batch(connection, "messages", "created_at < :before", {"before": now - RETENTION})


# Tickets


def insert_ticket(connection: sa.Connection, account_id: int, key_prefix: str, digest: bytes, now: datetime) -> None:
    """Insert a ticket (its hash) whose stream starts after the account's latest message."""
    run_sql(
        connection,
        "INSERT INTO tickets (digest, account_id, key_prefix, position, created_at) VALUES (:digest, :account, :key, "
        "coalesce((SELECT latest FROM streams WHERE account_id = :account), 0), :now)",
        {"digest": digest, "account": account_id, "key": key_prefix, "now": now},
    )


def find_ticket(connection: sa.Connection, slug: str, digest: bytes, now: datetime) -> TicketRow | None:
    """The ticket with this hash, if it and its key are valid for the stream of this account now."""
    row = run_sql(
        connection,
        "SELECT tickets.account_id, position, used_at IS NOT NULL FROM tickets "
        "JOIN accounts ON accounts.id = tickets.account_id AND slug = :slug AND disabled_at IS NULL "
        "WHERE (EXISTS (SELECT FROM keys WHERE prefix = key_prefix AND keys.account_id = tickets.account_id "
        "AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)) "
        "OR EXISTS (SELECT FROM clients WHERE token_prefix = key_prefix AND clients.account_id = tickets.account_id "
        "AND revoked_at IS NULL AND token_expires_at > :now) "
        "OR EXISTS (SELECT FROM access_tokens JOIN clients ON clients.id = client_id WHERE prefix = key_prefix "
        "AND access_tokens.account_id = tickets.account_id AND revoked_at IS NULL AND expires_at > :now)) "
        "AND tickets.digest = :digest AND CASE WHEN used_at IS NULL THEN tickets.created_at > :made "
        "ELSE used_at > :used END",
        {"slug": slug, "digest": digest, "now": now, "made": now - FIRST_USE, "used": now - VALID_FOR},
    ).one_or_none()
    return None if row is None else TicketRow(*row)


def find_ticket_digests(database: Database, digests: Collection[str]) -> set[str]:
    """Those hashes, in hexadecimal, that belong to a ticket."""
    wanted = [bytes.fromhex(digest) for digest in digests]
    rows = database.fetch_all("SELECT encode(digest, 'hex') FROM tickets WHERE digest = ANY (%s)", (wanted,))
    return {digest for (digest,) in rows}


def record_ticket_use(connection: sa.Connection, digest: bytes, now: datetime) -> None:
    """Record the first use of a ticket."""
    run_sql(
        connection,
        "UPDATE tickets SET used_at = :now WHERE digest = :digest AND used_at IS NULL",
        {"digest": digest, "now": now},
    )


def forget_old_tickets(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of expired tickets; returns how many."""
    condition = "CASE WHEN used_at IS NULL THEN created_at <= :made ELSE used_at <= :used END"
    return delete_batch(connection, "tickets", condition, {"made": now - FIRST_USE, "used": now - VALID_FOR})
