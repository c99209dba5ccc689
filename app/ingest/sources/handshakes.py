"""Answers the requests by which providers test a URL: a challenge (WhatsApp, Slack) or permission to deliver (CloudEvents)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.ingest.sources.delivery_values import DeliveryRequest, DeliveryValues, NotVerified
from app.workflows.sources.handshakes import Handshake

MAX_CHALLENGE = 4_096
_ORIGIN = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class HandshakeAnswer:
    """The response to a handshake: status, body as text/plain, and further header fields. `reason`: why it is a 403."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


def answer_handshake(
    handshake: Handshake | None, verify_token: str | None, request: DeliveryRequest, rate: float | None = None
) -> HandshakeAnswer | None:
    """The answer to a handshake; None if the request is not one. Never raises.

    A POST has to be verified before. `verify_token`: what the source expects in a handshake that contains such a token. `rate`:
    how many deliveries a second the account may receive; None without a limit.
    """
    if handshake is None or request.method != handshake.method:
        return None
    if handshake.allow_origin:
        return _allow_origin(request, rate)
    try:
        return _answer_challenge(handshake, verify_token, DeliveryValues(request))
    except NotVerified:
        return None


def _allow_origin(request: DeliveryRequest, rate: float | None) -> HandshakeAnswer | None:
    origin = request.headers.get("webhook-request-origin", "")
    if not _ORIGIN.fullmatch(origin):
        return None
    # Any origin is allowed, since only those who were given the URL know it. The rate is per minute.
    allowed_rate = "*" if rate is None else str(max(1, int(rate * 60)))
    allowed = {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": allowed_rate, "Allow": "POST"}
    return HandshakeAnswer(200, headers=allowed)


def _answer_challenge(
    handshake: Handshake, verify_token: str | None, delivery: DeliveryValues
) -> HandshakeAnswer | None:
    if handshake.when is not None and delivery.find(handshake.when) != handshake.equals.encode():
        return None
    challenge = delivery.find(handshake.challenge) if handshake.challenge else None
    if challenge is None or len(challenge) > MAX_CHALLENGE:
        return None
    if handshake.verify_token is not None:
        if not (verify_token or "").strip():
            return HandshakeAnswer(403, reason="the source has no verify_token")
        sent = delivery.find(handshake.verify_token) or b""
        if not hmac.compare_digest(sent, (verify_token or "").encode("utf-8", "replace")):
            return HandshakeAnswer(403, reason=f"{handshake.verify_token} is not the source's verify_token")
    return HandshakeAnswer(200, challenge.decode("utf-8", "replace"))
