"""What workflows say to applications: messages are kept, tickets are made, and a stream delivers what came since.

Comes in: the house and plain values. Goes out: frozen values. Each function is one transaction.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.core.errors import Problem, ProblemType
from app.core.ids import uuid7
from app.core.models import Message, Run
from app.db import messages
from app.db.messages import FIRST_USE, NewMessage
from app.services.context import AppContext

MOST_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Ticket:
    """What opens a stream, in clear for this once; `ttl`: seconds in which it has to be used."""

    ticket: str
    ttl: int


def keep_message(context: AppContext, run: Run, text: str, data: Mapping[str, Any]) -> UUID:
    """Keep what the step at which a run stands says, once; the message's id."""
    now = context.clock()
    new = NewMessage(uuid7(now), run.account_id, run.id, run.ordinal, run.event.distinct_id, text, data)
    with context.database.transaction() as connection:
        return messages.keep_message(connection, new, now)


def make_ticket(context: AppContext, account_id: int, key_prefix: str) -> Ticket:
    """A new ticket for the account's stream, good while the key is in force that it is made with."""
    ticket = secrets.token_urlsafe(32)
    with context.database.transaction() as connection:
        messages.insert_ticket(connection, account_id, key_prefix, _digest(ticket), context.clock())
    return Ticket(ticket, int(FIRST_USE.total_seconds()))


def read_stream(context: AppContext, slug: str, ticket: str, last: UUID | None) -> Sequence[Message]:
    """The next messages of an account's stream: those after the message `last`, or else after the ticket was made.

    Raises Problem 401 for a ticket that does not open this stream now, whatever the reason.
    """
    now, digest = context.clock(), _digest(ticket)
    with context.database.transaction() as connection:
        # No account has a NUL in its slug, and Postgres cannot be asked for one.
        found = None if "\0" in slug else messages.find_ticket(connection, slug, digest, now)
        if found is None:
            raise Problem(
                ProblemType.INVALID_TICKET, "The ticket is missing or not valid (any more). Ask for a new one."
            )
        if not found.used:
            messages.note_ticket_use(connection, digest, now)
        number = found.position
        if last is not None:
            number = messages.find_place(connection, found.account_id, last, _a_minute_before(last))
        return messages.find_messages_after(connection, found.account_id, number, MOST_AT_ONCE)


def _a_minute_before(message_id: UUID) -> UUID:
    """The least id of a message that was made a minute before this one; none is committed so much later than another."""
    made = max((message_id.int >> 80) - 60_000, 0)
    return UUID(int=made << 80)


def _digest(ticket: str) -> bytes:
    """What is kept of a ticket."""
    return hashlib.sha256(ticket.encode("utf-8", "replace")).digest()
