"""The only place that opens connections to the outside: settings in, an HTTP session out that refuses private targets.

What counts is the address that is dialled, at the moment it is dialled. aiohttp makes each socket of each connection
attempt (happy eyeballs, IP literals and cached names included) with the connector's `socket_factory`, so the check
stands there and no name server can talk its way around it. Redirects are not followed, proxies and .netrc of the
environment are not read, cookies are not kept, certificates are verified.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import aiohappyeyeballs
import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from app.actions.http_response import LARGEST_BODY
from app.core.config import Settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MOST_PER_HOST = 50
_LARGEST_HEADER = 8 * 1024
_MOST_HEADERS = 100
# Idle for longer than most servers keep a connection, it would be closed under the next request.
_KEPT_ALIVE = 4.0
_DNS_THREADS = 8
# Before the next address of a host is tried as well.
_HEAD_START = 0.25

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
# Inside of the public ranges but no destination: protocol assignments with Teredo, 6to4 and its relays, documentation.
_NOT_PUBLIC = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv6Network("2001::/23"),
    IPv6Network("2002::/16"),
    IPv6Network("3fff::/20"),
)


class RefusedTarget(OSError):
    """An address that must not be called; the text names it and the setting that would allow it."""


def refusal(address: Address, allowed: Sequence[Network]) -> str | None:
    """Why `address` must not be dialled; None when it may be: it is public, or inside of one of the networks `allowed`."""
    end = _end_of(address)
    if any(place in network for network in allowed for place in (address, end)):
        return None
    kind = _kind(end)
    if kind is None:
        return None
    return f"{address} is {kind} and must not be called; the setting ALLOWED_PRIVATE_TARGETS makes exceptions"


def _end_of(address: Address) -> Address:
    """Where packets to `address` end up: the IPv4 address that an IPv4-mapped or NAT64 one carries, else itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _kind(address: Address) -> str | None:
    """What makes an address not public, in words; None when it is public."""
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_reserved or any(address in network for network in _NOT_PUBLIC):
        return "a reserved address"
    if address.is_private or not address.is_global:
        return "a private address"
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "a reserved address"
    return None


def open_session(settings: Settings) -> aiohttp.ClientSession:
    """A session for calls to the outside; use it in `async with`, inside of a running event loop."""
    allowed = settings.allowed_private_targets

    def make_socket(target: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, place = target
        if (why := refusal(ip_address(place[0]), allowed)) is not None:
            raise RefusedTarget(why)
        return socket.socket(family=family, type=kind, proto=protocol)

    connector = _Connector(
        make_socket,
        _Resolver(),
        limit=0,
        limit_per_host=MOST_PER_HOST,
        keepalive_timeout=_KEPT_ALIVE,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=60),
        read_bufsize=LARGEST_BODY,
        max_line_size=_LARGEST_HEADER,
        max_field_size=_LARGEST_HEADER,
        max_headers=_MOST_HEADERS,
    )


class _Connector(aiohttp.TCPConnector):
    """aiohttp's, which remembers how it resolves names and makes sockets."""

    def __init__(self, make_socket: Callable[[Any], socket.socket], resolver: _Resolver, **options: Any) -> None:
        super().__init__(socket_factory=make_socket, resolver=resolver, **options)
        self.make_socket, self.resolver = make_socket, resolver


async def dial(session: aiohttp.ClientSession, host: str, port: int) -> socket.socket:
    """A connected socket for what is not HTTP, by the same rules as all calls of the session; raises OSError, and
    RefusedTarget where no address of the host may be dialled."""
    connector = session.connector
    assert isinstance(connector, _Connector)
    found = await connector.resolver.resolve(host, port)
    places = [(one["family"], socket.SOCK_STREAM, one["proto"], "", (one["host"], port)) for one in found]
    return await aiohappyeyeballs.start_connection(
        places, happy_eyeballs_delay=_HEAD_START, interleave=1, socket_factory=connector.make_socket
    )


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """The first LARGEST_BODY bytes of a response; the rest of a longer one is never read, its connection is closed."""
    body = bytearray()
    while len(body) < LARGEST_BODY:
        piece = await response.content.read(LARGEST_BODY - len(body))
        if not piece:
            return bytes(body)
        body += piece
    response.close()
    return bytes(body)


class _Resolver(AbstractResolver):
    """The system's resolver in threads of its own: a name server that hangs must hold up nothing but its own names."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host=str(place[0]),
                port=port,
                family=kind,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, place in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except UnicodeError:
        raise OSError(f"{host} is not a host name") from None
    return [(kind, place) for kind, _, _, _, place in found if kind in (socket.AF_INET, socket.AF_INET6)]
