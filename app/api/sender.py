"""What all event routes share: who may send, how fast, and how a refusal is confirmed."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response
from msgspec import Struct

from app.api import observation
from app.api.current import extension
from app.api.rate_limit import RateLimiter
from app.api.refusals import keep_refusal
from app.api.responses import show_allowance
from app.core import models
from app.core.errors import Problem, ProblemType, Unavailable
from app.core.exact_json import LARGE, ExactObject, read_object
from app.core.models import Event, Receipt
from app.ingest.accept import BuildEvent, EventAcceptor
from app.ingest.account_cache import Account, AccountCache
from app.services.context import AppContext

# A refusal never rests on an account snapshot that is older than this many seconds.
MAX_SNAPSHOT_AGE = 2.0


class Sender(Struct, frozen=True):
    """Who sends a request: the public `prefix` of its key (empty: it is no key), a `check` that raises Problem 401 or 403
    when the account does not take events from it now, and the 401 of its wire format."""

    prefix: str
    check: Callable[[Account], None]
    unauthorized: Callable[[], Problem]


def receive(sender: Sender, handle: Callable[[Account], Response]) -> Response:
    """Authenticate the sender and let `handle` answer for its account.

    When `handle` raises a Problem, the sender is checked again by a recent snapshot: a sender that is no longer allowed gets
    a 401 or 403 instead. What is refused is kept, unless the key is not valid (401).
    """
    accounts: AccountCache = extension("accounts")
    account = find_owner(accounts, sender)
    observation.note_account(account.snapshot.id)
    try:
        account = check_sender(accounts, account, sender)
        try:
            response = handle(account)
        except Problem:
            recheck(accounts, account, sender)
            accounts.record_key_use(sender.prefix)
            raise
    except Problem as exc:
        if exc.type is ProblemType.RATE_LIMIT_EXCEEDED:
            observation.count_limited(account.snapshot.id)
        keep_refusal(account, sender.prefix, exc)
        raise
    accounts.record_key_use(sender.prefix)
    return response


def accept_event(account: Account, sender: Sender, build_event: BuildEvent) -> Receipt:
    """Count one event against the plan and accept it; the sender is checked again by each newer snapshot of the account."""
    acceptor: EventAcceptor = extension("acceptor")
    take_from_plan(account)

    def build_checked(current: Account) -> Event:
        if current is not account:
            sender.check(current)
        return build_event(current)

    return acceptor.accept(account, build_checked)


def check_plan(account: Account) -> None:
    """Before work whose number of events is not known yet: raises Problem 429 while the account is beyond its limit. Counts
    nothing."""
    limiter: RateLimiter = extension("rate_limiter")
    rate = rate_of(account)
    if rate is None or not limiter.was_exceeded(account.snapshot.id):
        return
    allowance = limiter.look(account.snapshot.id, rate)
    if not allowance.allowed:
        show_allowance(lambda: allowance)
        allowance.check()


def rate_of(account: Account) -> int | None:
    """The events a second that the account may send; None: any number."""
    return account.snapshot.events_per_second or models.PLANS[account.snapshot.plan].events_per_second


def read_event(account: Account, body: bytes) -> ExactObject:
    """Parse the body of an event: of each account, one large body at a time. Raises Problem."""
    if len(body) <= LARGE:
        return read_object(body)
    context: AppContext = extension("context")
    with context.limits.bodies.acquire(account.snapshot.id):
        return read_object(body)


def find_owner(accounts: AccountCache, sender: Sender) -> Account:
    """The account that owns the sender's key; raises Problem 401. The key itself is not verified yet."""
    account = accounts.find_by_key(sender.prefix) if sender.prefix else None
    if account is None:
        raise sender.unauthorized()
    return account


def check_sender(accounts: AccountCache, account: Account, sender: Sender) -> Account:
    """The account, which the sender may send to; raises Problem 401 or 403, confirmed by a recent snapshot."""
    try:
        sender.check(account)
    except Problem:
        current = accounts.refresh(account, max_age=MAX_SNAPSHOT_AGE)
        if current is None:
            raise sender.unauthorized() from None
        sender.check(current)
        return current
    return account


def recheck(
    accounts: AccountCache, account: Account, sender: Sender, *, max_age: float = MAX_SNAPSHOT_AGE
) -> Account | None:
    """Check the sender again before a refusal, by a snapshot that is at most `max_age` seconds old; raises the Problem of a
    sender that is no longer allowed. Returns that snapshot, or None while Postgres is unavailable."""
    try:
        current = accounts.refresh(account, max_age=max_age)
    except Unavailable:
        return None
    if current is None:
        raise sender.unauthorized()
    sender.check(current)
    return current


def stores_unusable_phone(account: Account) -> bool:
    """Whether the account keeps events whose phone cannot be used, by a recent snapshot: a refusal rests on it."""
    accounts: AccountCache = extension("accounts")
    try:
        current = accounts.refresh(account, max_age=MAX_SNAPSHOT_AGE)
    except Unavailable:
        current = None
    return (current or account).snapshot.unusable_phone == models.STORE


def take_from_plan(account: Account, events: int = 1) -> None:
    """Count events against the account's plan; the response gets the RateLimit headers. Raises Problem 429."""
    limiter: RateLimiter = extension("rate_limiter")
    rate = rate_of(account)
    if rate is None:
        return
    allowance = limiter.take(account.snapshot.id, rate, events)
    show_allowance(lambda: allowance)
    allowance.check()
