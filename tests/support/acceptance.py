"""Accepts events and fires deadlines without a request, with an account cache of its own."""

from __future__ import annotations

from uuid import UUID

from app.core.api_keys import prefix_of
from app.core.models import Event, Receipt
from app.ingest import deadlines
from app.ingest.accept import BuildEvent, EventAcceptor
from app.ingest.account_cache import Account, AccountCache
from app.services.context import AppContext


def current_account(context: AppContext, token: str) -> Account:
    """The account of a key, as it is now."""
    account = AccountCache(context).find_by_key(prefix_of(token))
    assert account is not None
    return account


def accept(context: AppContext, account: Account, event: Event | BuildEvent) -> Receipt:
    """Accept an event, or what `build_event` gives."""
    build_event: BuildEvent = (lambda _: event) if isinstance(event, Event) else event
    return EventAcceptor(context, AccountCache(context)).accept(account, build_event)


def fire_deadline(context: AppContext, account_id: int, workflow_id: UUID, subject: str) -> None:
    """What the worker does when a deadline's job is due."""
    deadlines.fire_deadline(context, AccountCache(context), account_id, workflow_id, subject)
