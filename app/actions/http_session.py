"""Opens a worker's outgoing connections; refuses private addresses.

The address is checked when the socket is created. aiohttp creates each socket of each connection attempt (happy eyeballs,
IP literals and cached names included) with the connector's `socket_factory`, so a name server cannot bypass the check.
Redirects are not followed, proxies and .netrc of the environment are not read, cookies are not stored, certificates are
verified.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import aiohappyeyeballs
import aiohttp

from app.actions.address_guard import open_socket
from app.actions.http_response import MAX_BODY_BYTES
from app.actions.name_resolver import NameResolver
from app.core.config import Settings

MAX_CONNECTIONS_PER_HOST = 50
_MAX_HEADER_BYTES = 8 * 1024
_MAX_HEADERS = 100
# Seconds. Most servers close idle connections after five, and would close one under the next request.
_KEEPALIVE_TIMEOUT = 4.0
# Seconds until the next address of a host is tried as well.
_HAPPY_EYEBALLS_DELAY = 0.25


def open_session(settings: Settings) -> aiohttp.ClientSession:
    """A session for outgoing calls, to be used in `async with` inside a running event loop."""
    allowed = settings.allowed_private_targets

    def make_socket(target: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, socket_address = target
        return open_socket(family, kind, protocol, socket_address[0], allowed)

    connector = _Connector(
        make_socket,
        NameResolver(),
        # aiohttp's cache would let the calls of all accounts wait for the first look-up of a name. The resolver has its own.
        use_dns_cache=False,
        limit=0,
        limit_per_host=MAX_CONNECTIONS_PER_HOST,
        keepalive_timeout=_KEEPALIVE_TIMEOUT,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=60),
        read_bufsize=MAX_BODY_BYTES,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        max_headers=_MAX_HEADERS,
    )


class _Connector(aiohttp.TCPConnector):
    """aiohttp's connector, with its resolver and socket factory readable for `connect_socket`."""

    def __init__(self, make_socket: Callable[[Any], socket.socket], resolver: NameResolver, **options: Any) -> None:
        super().__init__(socket_factory=make_socket, resolver=resolver, **options)
        self.make_socket, self.resolver = make_socket, resolver


async def connect_socket(session: aiohttp.ClientSession, host: str, port: int) -> socket.socket:
    """A connected socket for other protocols than HTTP, by the rules of the session. Raises OSError; RefusedTarget when no
    address of the host may be called."""
    connector = session.connector
    assert isinstance(connector, _Connector)
    addresses = await connector.resolver.resolve(host, port)
    targets = [(each["family"], socket.SOCK_STREAM, each["proto"], "", (each["host"], port)) for each in addresses]
    return await aiohappyeyeballs.start_connection(
        targets, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY, interleave=1, socket_factory=connector.make_socket
    )


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """The first MAX_BODY_BYTES of a response. The rest of a longer one is not read, and its connection is closed."""
    body = bytearray()
    while len(body) < MAX_BODY_BYTES:
        piece = await response.content.read(MAX_BODY_BYTES - len(body))
        if not piece:
            return bytes(body)
        body += piece
    response.close()
    return bytes(body)
