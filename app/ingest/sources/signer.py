"""Signs a request as the sender of a source would, and accepts it like one that was posted: a test of a source by a person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from urllib.parse import quote

from app.core.errors import Problem, ProblemType
from app.core.ids import uuid7
from app.db.audit import Change
from app.db.sources import SourceRow
from app.ingest.account_cache import Account, AccountCache, check_open
from app.ingest.sources.accept_delivery import CountEvents, DeliveryReceipt, SourceAcceptor, find_source
from app.ingest.sources.delivery_values import DeliveryRequest, DeliveryValues, NotVerified
from app.ingest.sources.received import ReceivedDelivery
from app.ingest.sources.verifier import Verdict, make_hmac, read_key, signed_texts, verify
from app.services import audit
from app.services.context import AppContext
from app.workflows.sources.schemes import Location, Scheme


class CannotSign(ValueError):
    """A request that cannot be signed; the message says why."""


def sign(scheme: Scheme | None, secret: str, request: DeliveryRequest, now: datetime) -> DeliveryRequest:
    """The request with the signature, or the shared secret, that the scheme expects. Raises CannotSign."""
    if scheme is None:
        return request
    if scheme.kind == "ecdsa":
        raise CannotSign("only the provider has the private key")
    key = read_key(scheme, secret)
    if not key:
        raise CannotSign("no secret of the source can be used")
    if scheme.kind != "hmac":
        return _put(request, scheme.locations[0], key.decode())
    made = {"timestamp": str(int(now.timestamp())), "id": f"test-{uuid7(now)}", "token": f"test-{uuid7(now)}"}
    for name, locations in (scheme.values or {}).items():
        request = _put(request, locations[0], made[name])
    values = {name: text.encode() for name, text in made.items()}
    try:
        text = next(iter(signed_texts(scheme, DeliveryValues(request), values)))
    except NotVerified as exc:
        raise CannotSign(str(exc)) from None
    signature = make_hmac(scheme, key, text)
    if scheme.field_names:
        fields = {**made, "signature": signature}
        pieces = [f"{name}={fields[value]}" for value, name in scheme.field_names.items()]
        return _put(request, scheme.locations[0], (scheme.separator or ",").join(pieces))
    return _put(request, scheme.locations[0], scheme.prefix + signature)


def _put(request: DeliveryRequest, location: Location, value: str) -> DeliveryRequest:
    """The request with a value at a location."""
    value = location.prefix + value
    if location.kind == "header":
        return replace(request, headers={**request.headers, location.name: value})
    if location.kind == "query":
        joint = "&" if "?" in request.url else "?"
        return replace(request, url=f"{request.url}{joint}{quote(location.name)}={quote(value)}")
    raise CannotSign(f"{location} cannot be added to a body that exists")


class SignedSender:
    """Sends signed requests of people to sources."""

    def __init__(self, context: AppContext, accounts: AccountCache, acceptor: SourceAcceptor) -> None:
        self._context = context
        self._accounts = accounts
        self._acceptor = acceptor

    def send(
        self, row: SourceRow, request: DeliveryRequest, request_id: str, count: Callable[[Account], CountEvents]
    ) -> DeliveryReceipt:
        """Sign a request with the first secret of a source, and accept it as if it were posted now. Raises CannotSign, Problem
        and Unavailable."""
        context, now = self._context, self._context.clock()
        account = self._find_account(row.account_id)
        check_open(account, now)
        source = find_source(account, row.id)
        if source.compiled.verify is not None:
            if not source.secrets:
                raise CannotSign(f"the account lacks the secret {', '.join(source.missing)}")
            request = sign(source.compiled.verify, source.secrets[0], request, now)
        query = request.url.partition("?")[2]
        received = ReceivedDelivery(uuid7(now), row.id, now, request, query, None, request_id)

        def check(current: Account) -> Verdict:
            found = find_source(current, row.id)
            verdict = verify(found.compiled.verify, found.secrets, request, now)
            if not verdict.verified:
                raise Problem(ProblemType.UNVERIFIED_DELIVERY, f"The delivery is not verified: {verdict.reason}.")
            return verdict

        with context.database.transaction() as connection:
            change = Change("source.test", row.account_id, row.name, None, {"delivery": str(received.id)})
            audit.record(connection, context, change)
        return self._acceptor.accept(account, received, check, count(account))

    def _find_account(self, account_id: int) -> Account:
        """The account as it is now: a secret may just have been set."""
        known = self._accounts.find_by_id(account_id)
        found = None if known is None else self._accounts.refresh(known, max_age=0)
        if found is None:
            raise Problem(ProblemType.NOT_FOUND, "The account was deleted.")
        return found
