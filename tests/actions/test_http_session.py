"""Which addresses may be called, checked when the connection is opened."""

from __future__ import annotations

import gzip
from ipaddress import ip_address, ip_network
from pathlib import Path

import aiohttp
import pytest
from aiohttp import ClientConnectorError, ClientSession

from app.actions.address_guard import RefusedTarget, refusal_reason
from app.actions.http_response import MAX_BODY_BYTES
from app.actions.http_session import read_body
from tests.support.action_contexts import a_tls_target, in_a_session
from tests.support.http_target import Answer, an_http_target


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses_may_be_called(address: str) -> None:
    assert refusal_reason(ip_address(address), ()) is None


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("198.18.0.1", "private"),
        ("192.0.2.1", "private"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("2001:db8::1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("ff02::1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("192.0.0.8", "reserved"),
        ("192.88.99.1", "reserved"),
        ("fec0::1", "reserved"),
        ("100::1", "reserved"),
        ("5f00::1", "reserved"),
        ("64:ff9b:1::1", "reserved"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("::ffff:169.254.169.254", "link-local"),
        ("::127.0.0.1", "reserved"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("2002:7f00:1::", "reserved"),
        ("2002:a9fe:a9fe::1", "reserved"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "reserved"),
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str, kind: str) -> None:
    reason = refusal_reason(ip_address(address), ())
    assert reason is not None
    assert kind in reason
    assert "ALLOWED_PRIVATE_TARGETS" in reason


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203"])
def test_an_allowed_network_makes_an_exception(address: str) -> None:
    allowed = (ip_network("10.0.0.0/8"),)
    assert refusal_reason(ip_address(address), allowed) is None
    assert refusal_reason(ip_address("192.168.1.1"), allowed) is not None


def refused(url: str, *allowed: str) -> RefusedTarget:
    async def call(session: ClientSession) -> RefusedTarget:
        with pytest.raises(ClientConnectorError) as caught:
            await session.get(url, timeout=aiohttp.ClientTimeout(total=5))
        assert isinstance(caught.value.os_error, RefusedTarget)
        return caught.value.os_error

    return in_a_session(call, *(allowed or ("203.0.113.0/24",)))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "0.0.0.0", "169.254.169.254"],
)
def test_no_spelling_of_a_private_address_is_connected_to(host: str) -> None:
    with an_http_target() as server:
        assert "ALLOWED_PRIVATE_TARGETS" in str(refused(f"http://{host}:{server.server_port}/"))
    assert server.calls == []


@pytest.mark.parametrize("host", ["2130706433", "127.1", "017700000001", "127.0.0.1."])
def test_numbers_are_not_host_names(host: str) -> None:
    async def call(session: ClientSession) -> None:
        with pytest.raises((aiohttp.InvalidURL, ClientConnectorError)):
            await session.get(f"http://{host}/", timeout=aiohttp.ClientTimeout(total=5))

    in_a_session(call, "203.0.113.0/24")


def test_a_host_name_is_checked_by_its_address() -> None:
    async def call(session: ClientSession) -> int:
        async with session.get(f"http://localhost:{server.server_port}/") as response:
            return response.status

    with an_http_target() as server:
        assert in_a_session(call, "127.0.0.0/8") == 200


def test_a_redirect_does_not_bypass_the_check() -> None:
    """Even a session that follows redirects checks each address that it connects to."""

    async def call(session: ClientSession) -> None:
        with pytest.raises(ClientConnectorError) as caught:
            await session.get(first.url, allow_redirects=True)
        assert isinstance(caught.value.os_error, RefusedTarget)

    elsewhere = Answer(302, headers=(("Location", "http://127.0.0.2:9/"),))
    with an_http_target(elsewhere) as first:
        in_a_session(call, "127.0.0.1/32")


def test_the_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def call(session: ClientSession) -> int:
        async with session.get(server.url) as response:
            return response.status

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with an_http_target() as server:
        assert in_a_session(call) == 200


def test_cookies_are_not_stored() -> None:
    async def call(session: ClientSession) -> None:
        for _ in range(2):
            async with session.get(server.url) as response:
                assert response.status == 200

    with an_http_target(Answer(headers=(("Set-Cookie", "a=b"),))) as server:
        in_a_session(call)
    assert [call.headers.get("Cookie") for call in server.calls] == [None, None]


def test_a_body_is_read_up_to_a_limit() -> None:
    async def call(session: ClientSession) -> bytes:
        async with session.get(server.url) as response:
            return await read_body(response)

    with an_http_target(Answer(body=b"x" * 5_000_000)) as server:
        assert in_a_session(call) == b"x" * MAX_BODY_BYTES


def test_a_compressed_body_is_not_decompressed() -> None:
    packed = gzip.compress(b"x" * 10_000_000)

    async def call(session: ClientSession) -> bytes:
        async with session.get(server.url, auto_decompress=False) as response:
            return await read_body(response)

    with an_http_target(Answer(body=packed, headers=(("Content-Encoding", "gzip"),))) as server:
        assert in_a_session(call) == packed


@pytest.mark.parametrize("headers", [(("X-Long", "x" * 20_000),), tuple((f"X-{n}", "y") for n in range(200))])
def test_headers_are_limited(headers: tuple[tuple[str, str], ...]) -> None:
    async def call(session: ClientSession) -> None:
        with pytest.raises(aiohttp.ClientError):
            await session.get(server.url)

    with an_http_target(Answer(headers=headers)) as server:
        in_a_session(call)


def test_connections_per_host_are_limited() -> None:
    assert in_a_session(_limit) == 50


async def _limit(session: ClientSession) -> int:
    assert session.connector is not None
    return session.connector.limit_per_host


def test_a_certificate_is_verified(tmp_path: Path) -> None:
    async def call(session: ClientSession) -> None:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(server.url.replace("http://", "https://"))

    with a_tls_target(tmp_path) as server:
        in_a_session(call)
    assert server.calls == []
