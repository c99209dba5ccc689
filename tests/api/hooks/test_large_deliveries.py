"""Of each account, a process holds a few large bodies at once: others wait, and small ones do not."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from app.api.request_body import LARGE_BODY
from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.server import Server
from tests.support.sources import ASource, a_body, a_source, an_order

AT_ONCE = 4
LARGE = a_body(an_order(1, filler="x" * LARGE_BODY))


@pytest.fixture
def shop(context: AppContext, server: Server, acme: Sender) -> ASource:
    """A source of acme."""
    return a_source(context, server, acme.account_id)


@pytest.fixture
def held(server: Server, shop: ASource) -> Iterator[None]:
    """As many large bodies as acme may have are on their way to acme's source."""
    with ExitStack() as opened:
        for _ in range(AT_ONCE):
            connection = opened.enter_context(closing(socket.create_connection(("127.0.0.1", server.port), 20)))
            head = f"POST /hooks/{shop.token} HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGE_BODY + 1}\r\n\r\n"
            connection.sendall(head.encode() + b"begun")
        # Their heads may not have been read yet.
        while shop.post(LARGE).status_code == 200:
            pass
        yield


@pytest.mark.usefixtures("held")
def test_a_large_delivery_beyond_them_is_a_429(shop: ASource, acme: Sender) -> None:
    answer = shop.post(LARGE)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    packed = shop.post(gzip.compress(LARGE), Content_Encoding="gzip")
    assert (len(gzip.compress(LARGE)) < LARGE_BODY // 10, packed.status_code) == (True, 429)
    batch = b"[" + b",".join([b"1"] * LARGE_BODY) + b"]"
    headers = {"Content-Type": "application/json", **acme.headers()}
    assert acme.client.post("/api/v1/cvf-events/batch", data=batch, headers=headers).status_code == 429


@pytest.mark.usefixtures("held")
def test_small_deliveries_and_other_accounts_do_not_wait(
    context: AppContext, server: Server, shop: ASource, globex: Sender
) -> None:
    assert shop.post(an_order(2)).status_code == 200
    assert a_source(context, server, globex.account_id).post(LARGE).status_code == 200


def test_large_deliveries_one_after_the_other_do_not_wait(shop: ASource) -> None:
    assert [shop.post(LARGE).status_code for _ in range(2 * AT_ONCE)] == [200] * 2 * AT_ONCE
