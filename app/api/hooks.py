"""`/hooks/TOKEN`: where third parties post, each to the URL of a source (docs/receiving.md)."""

from __future__ import annotations

from functools import lru_cache, partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from flask import Blueprint, Response, request

from app.api.current import extension
from app.api.public_url import public_url
from app.api.request_body import CheckSize, LargeBodies, read_as_sent
from app.api.responses import json_response, request_id
from app.api.sender import Sender, check_plan, rate_of, receive, recheck, take_from_plan
from app.core import metrics
from app.core.api_keys import source_prefix_of, verify_key
from app.core.errors import Problem, ProblemType
from app.core.exact_json import replace_unstorable
from app.core.ids import uuid7
from app.core.models import STORE
from app.db.deliveries import UNVERIFIED, DeliveryProblem
from app.ingest.account_cache import Account, check_open
from app.ingest.sources.accept_delivery import DeliveryReceipt, SourceAcceptor, find_source, not_usable_now
from app.ingest.sources.delivery_values import DeliveryRequest, unpack_body
from app.ingest.sources.handshakes import answer_handshake
from app.ingest.sources.received import ReceivedDelivery, new_delivery
from app.ingest.sources.unverified import UnverifiedKeeper
from app.ingest.sources.verifier import Verdict, verify
from app.services.context import AppContext

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_SCOPE = "source:"
_METHODS = ("POST", "GET", "HEAD", "OPTIONS")
_MAX_PROBLEMS = 5
_log = structlog.get_logger()

blueprint = Blueprint("hooks", __name__)


@blueprint.route("/hooks/<token>", methods=_METHODS, provide_automatic_options=False)
def receive_delivery(token: str) -> Response:
    """Accept a delivery, or answer a request by which a provider tests the URL."""
    context: AppContext = extension("context")
    sender = _sender_of(context, token)
    if request.method != "POST":
        return receive(sender, lambda account: _answer_test(context, account, sender))
    return receive(sender, lambda account: accept_delivery(context, account, sender, _source_id_of(account, sender)))


def _sender_of(context: AppContext, token: str) -> Sender:
    """The sender with this token: the token of a source, which only authenticates here."""
    prefix = source_prefix_of(token)

    def check(account: Account) -> None:
        now = context.clock()
        key = verify_key(token, prefix, account.snapshot.keys, now)
        if key is None or not key.scopes[0].startswith(_SCOPE):
            raise _unknown()
        check_open(account, now)

    return Sender(prefix, check, _unknown)


def _unknown() -> Problem:
    return Problem(ProblemType.NOT_FOUND, "No source has this URL.")


def _source_id_of(account: Account, sender: Sender) -> UUID:
    """The id of the source whose token the sender has, which has been checked."""
    return _id_in(account.snapshot.keys[sender.prefix].scopes[0])


@lru_cache(maxsize=4_096)
def _id_in(scope: str) -> UUID:
    return UUID(scope.removeprefix(_SCOPE))


def accept_delivery(context: AppContext, account: Account, sender: Sender, source_id: UUID) -> Response:
    """Accept the request as a delivery to a source. Raises Problem."""
    with LargeBodies(context.limits.large_bodies, account.snapshot.id) as bodies:
        return _accept_received(context, account, sender, _read(context, source_id, bodies.check))


def _accept_received(context: AppContext, account: Account, sender: Sender, received: ReceivedDelivery) -> Response:
    verdict = _verify(context, account, received)
    if not verdict.verified:
        # A refusal rests on a recent snapshot: the secret may have changed.
        current = recheck(extension("accounts"), account, sender)
        if current is not None and current.snapshot.version != account.snapshot.version:
            account, verdict = current, _verify(context, current, received)
        _check(account, received, verdict)
    elif (answer := _answer_handshake(account, received.source_id, received.request)) is not None:
        return answer
    check_plan(account)

    def verify_again(current: Account) -> Verdict:
        if current is account:
            return verdict
        sender.check(current)
        found = _verify(context, current, received)
        _check(current, received, found)
        return found

    acceptor: SourceAcceptor = extension("source_acceptor")
    return _success(acceptor.accept(account, received, verify_again, partial(take_from_plan, account)))


def _read(context: AppContext, source_id: UUID, check_size: CheckSize) -> ReceivedDelivery:
    """The delivery in the request; raises Problem."""
    settings, environ = context.settings, request.environ
    raw, encoding = read_as_sent(
        environ, limit=settings.max_batch_bytes, seconds=settings.body_timeout, check=check_size
    )
    body, fault = unpack_body(raw, encoding, settings.max_batch_unpacked_bytes, check_size)
    now = context.clock()
    return ReceivedDelivery(
        id=uuid7(now),
        source_id=source_id,
        received_at=now,
        request=_request_of(context, raw, body, fault),
        query=environ.get("QUERY_STRING", ""),
        content_encoding=replace_unstorable(encoding) or None,
        request_id=request_id(),
    )


def _request_of(context: AppContext, raw: bytes = b"", body: bytes = b"", fault: str = "") -> DeliveryRequest:
    """The request in the form that the verifier reads."""
    environ: WSGIEnvironment = request.environ
    headers = {_header_name(name): environ[name] for name in filter(_is_header, environ)}
    for name, key in (("content-type", "CONTENT_TYPE"), ("content-length", "CONTENT_LENGTH")):
        if value := environ.get(key):
            headers[name] = value
    url = public_url(environ, context.settings.trusted_proxies)
    return DeliveryRequest(environ["REQUEST_METHOD"], url, headers, raw, body, fault)


_is_header = methodcaller("startswith", "HTTP_")


@lru_cache(maxsize=4_096)
def _header_name(key: str) -> str:
    """The name of the header that has this key in an environ."""
    return key.removeprefix("HTTP_").replace("_", "-").lower()


def _verify(context: AppContext, account: Account, received: ReceivedDelivery) -> Verdict:
    source = find_source(account, received.source_id)
    charge = partial(context.limits.shares.spend, account.snapshot.id)
    return verify(source.compiled.verify, source.secrets, received.request, received.received_at, charge)


def _check(account: Account, received: ReceivedDelivery, verdict: Verdict) -> None:
    """Raise the Problem for a delivery that is not verified and has to be refused: 401, or 503 while the source lacks a secret.
    A sample is kept."""
    source = find_source(account, received.source_id)
    if verdict.verified or source.compiled.unverified == STORE:
        return
    if verdict.is_misconfigured or source.missing:
        reason = f"the source lacks a secret ({', '.join(source.missing)})" if source.missing else verdict.reason
        detail = f"The delivery cannot be verified: {reason}."
        problem = not_usable_now(detail)
    else:
        problem = Problem(ProblemType.UNVERIFIED_DELIVERY, f"The delivery is not verified: {verdict.reason}.")
    metrics.deliveries_of[UNVERIFIED].inc()
    keeper: UnverifiedKeeper = extension("unverified")
    problems = [DeliveryProblem(None, "verify", problem.detail)]
    make_row = partial(
        new_delivery, received, account.snapshot.id, source, verified=False, result=UNVERIFIED, problems=problems
    )
    is_kept = keeper.keep(received.source_id, make_row)
    if is_kept and problem.type is ProblemType.SERVICE_UNAVAILABLE:
        _log.error(
            "a source cannot verify", account=account.snapshot.id, source=source.snapshot.name, reason=problem.detail
        )
    raise problem


def _answer_test(context: AppContext, account: Account, sender: Sender) -> Response:
    """Answer a request without a delivery: a handshake, or a test whether the URL exists, which always succeeds."""
    # This needs a recent snapshot, since no write detects a stale one, and verify_token may have changed.
    account = recheck(extension("accounts"), account, sender) or account
    answer = _answer_handshake(account, _source_id_of(account, sender), _request_of(context))
    if answer is None:
        answer = json_response({"result": "ready"})
    answer.headers.setdefault("Allow", ", ".join(_METHODS))
    return answer


def _answer_handshake(account: Account, source_id: UUID, sent: DeliveryRequest) -> Response | None:
    source = find_source(account, source_id)
    answer = answer_handshake(source.compiled.handshake, source.verify_token, sent, rate_of(account))
    if answer is None:
        return None
    if answer.status == 403:
        raise Problem(ProblemType.FORBIDDEN, f"The handshake is refused: {answer.reason}.")
    return Response(answer.body, answer.status, answer.headers, content_type="text/plain; charset=utf-8")


def _success(receipt: DeliveryReceipt) -> Response:
    body: dict[str, Any] = {
        "delivery": receipt.id,
        "result": receipt.result,
        "events": receipt.events,
        "duplicates": receipt.duplicates,
    }
    if receipt.problems:
        body["problems"] = receipt.problems[:_MAX_PROBLEMS]
    return json_response(body)
