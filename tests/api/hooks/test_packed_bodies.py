"""Deliveries whose body cannot be unpacked: verified by the bytes that arrived, and not lost."""

from __future__ import annotations

import gzip
import hmac

import pytest

from app.ingest.sources.delivery_replay import DeliveryReplayer
from app.services import deliveries
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender
from tests.support.server import Server
from tests.support.sources import SECRET, a_body, a_source, an_order

PACKED = gzip.compress(a_body(an_order(1)))
BODIES = {
    "cut off": (PACKED[:-9], "gzip", "The gzip body is cut off before its end."),
    "not gzip": (a_body(an_order(1)), "gzip", "Content-Encoding is gzip, but the body is not."),
    "another encoding": (a_body(an_order(1)), "br", "Content-Encoding is 'br'; it must be gzip or absent."),
    "too large": (
        gzip.compress(b"0" * 11 * 1024 * 1024),
        "gzip",
        "The body is larger than 10485760 bytes (counted unpacked).",
    ),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_verified_body_that_cannot_be_unpacked_is_kept_and_answered_with_200(
    context: AppContext, server: Server, acme: Sender, rows: Rows, kind: str
) -> None:
    body, encoding, message = BODIES[kind]
    shop = a_source(context, server, acme.account_id)
    answer = shop.post(body, Content_Encoding=encoding)
    assert (answer.status_code, answer.json["result"]) == (200, "unmapped"), answer.text
    assert answer.json["problems"] == [{"item": None, "path": "body", "message": message}]
    ((stored, *others),) = rows(
        "SELECT body, content_encoding, verified FROM deliveries WHERE account_id = %s", acme.account_id
    )
    assert (bytes(stored), others) == (body, [encoding, True])  # type: ignore[call-overload]
    delivery = deliveries.find_latest_deliveries(context, acme.account_id, deliveries.DeliveryFilter(), 1)[0]
    again = DeliveryReplayer(context, acme.account_id).replay(delivery.id)
    assert (again.result, [problem.message for problem in again.problems]) == ("unmapped", [message])


def test_a_body_that_cannot_be_unpacked_is_not_verified_by_another_secret(
    context: AppContext, server: Server, acme: Sender, rows: Rows
) -> None:
    shop = a_source(context, server, acme.account_id)
    assert shop.post(PACKED[:-9], secret="another", Content_Encoding="gzip").status_code == 401
    assert rows("SELECT FROM deliveries WHERE account_id = %s AND verified", acme.account_id) == []


def test_an_unpacked_body_that_is_signed_and_missing_is_a_401(
    context: AppContext, server: Server, acme: Sender
) -> None:
    verify = {"hmac": "sha256", "header": "x-signature", "signed": "{unpacked_body}"}
    shop = a_source(context, server, acme.account_id, verify=verify)
    # The signature of an empty body, which a sender may have made before.
    signature = hmac.digest(SECRET.encode(), b"", "sha256").hex()
    answer = shop.post(PACKED[:-9], Content_Encoding="gzip", X_Signature=signature)
    assert answer.status_code == 401
    detail = "The delivery is not verified: the body cannot be unpacked (The gzip body is cut off before its end)."
    assert answer.json["detail"] == detail
