"""The message stream: stores messages of workflows, and delivers them to applications that have a ticket."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.core.errors import Problem, ProblemType
from app.core.exact_json import UNSTORABLE
from app.core.ids import uuid7
from app.core.models import Message, Run
from app.db import messages
from app.db.messages import FIRST_USE, NewMessage
from app.services.context import AppContext

# Of one response.
MAX_MESSAGES = 500
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket in clear text; `ttl` is in how many seconds it must first be used."""

    ticket: str
    ttl: int


def keep_message(context: AppContext, run: Run, text: str, data: Mapping[str, Any]) -> UUID:
    """Store the message of a run's current step once; returns the id of the message."""
    now = context.clock()
    new = NewMessage(uuid7(now), run.account_id, run.id, run.ordinal, run.event.distinct_id, text, data)
    with context.database.transaction() as connection:
        return messages.insert_message(connection, new, now)


def make_ticket(context: AppContext, account_id: int, key_prefix: str) -> Ticket:
    """Create a ticket for the account's stream. It becomes invalid with the key that it is created with."""
    ticket = secrets.token_urlsafe(32)
    with context.database.transaction() as connection:
        messages.insert_ticket(connection, account_id, key_prefix, _digest(ticket), context.clock())
    return Ticket(ticket, int(FIRST_USE.total_seconds()))


def read_stream(context: AppContext, slug: str, ticket: str, last: UUID | None) -> Sequence[Message]:
    """The next messages of an account's stream, after the message `last` or else after the ticket was created.

    Raises Problem 401 for a ticket that is not valid for this stream, LookupLimit and Unavailable.
    """
    now, digest = context.clock(), _digest(ticket)
    context.limits.ticket_lookups.spend(digest.hex())
    with context.database.transaction() as connection:
        # Postgres refuses such a text; no slug has one.
        found = None if UNSTORABLE.search(slug) else messages.find_ticket(connection, slug, digest, now)
        if found is None:
            raise Problem(ProblemType.INVALID_TICKET, "The ticket is missing, invalid or expired. Request a new one.")
        context.limits.ticket_lookups.refund()
        if not found.used:
            messages.record_ticket_use(connection, digest, now)
        number = found.position
        if last is not None:
            number = messages.find_number(connection, found.account_id, last, _least_id_before(last))
        return messages.find_messages_after(connection, found.account_id, number, MAX_MESSAGES, MAX_BYTES)


def _least_id_before(message_id: UUID) -> UUID:
    """The least id of a message created a minute before this one. No commit is delayed by that much."""
    milliseconds = max((message_id.int >> 80) - 60_000, 0)
    return UUID(int=milliseconds << 80)


def _digest(ticket: str) -> bytes:
    """The hash that is stored of a ticket."""
    return hashlib.sha256(ticket.encode("utf-8", "replace")).digest()
