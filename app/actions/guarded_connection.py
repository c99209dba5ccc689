"""A blocking HTTP connection with the address guard, for processes without an event loop; works with threads and greenlets."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from yarl import URL

from app.actions.address_guard import Network, RefusedTarget, open_socket
from app.core.pacing import is_gevent_patched

# Seconds. Most servers close idle connections after five, and would close one under the next request.
_KEEPALIVE_TIMEOUT = 4.0
# Seconds until the next address of a host is tried.
_NEXT_ADDRESS_DELAY = 0.25
# More than an account may have calls: the names of one do not use up the threads.
_MAX_LOOK_UPS = 192

if TYPE_CHECKING:
    from gevent.threadpool import ThreadPool


@cache
def tls_context() -> ssl.SSLContext:
    """The TLS context of the process. Reading the certificates takes 50 ms, during which the event loop continues."""
    if not is_gevent_patched():
        return ssl.create_default_context()
    import gevent

    context: ssl.SSLContext = gevent.get_hub().threadpool.apply(ssl.create_default_context)
    return context


@cache
def _name_threads() -> ThreadPool:
    """Native threads for look-ups of names, of which each keeps one as long as it hangs. gevent has ten for everything else,
    such as the name of Postgres."""
    from gevent.threadpool import ThreadPool

    return ThreadPool(_MAX_LOOK_UPS)


def _look_up(host: str, port: int) -> list[Any]:
    """The addresses of a name or of an address. Raises OSError."""
    if not is_gevent_patched():
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    from gevent.monkey import get_original

    getaddrinfo = get_original("socket", "getaddrinfo")
    with suppress(OSError):
        # An address needs no name server.
        found: list[Any] = getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return found
    found = _name_threads().apply(getaddrinfo, (host, port), {"type": socket.SOCK_STREAM})
    return found


class GuardedConnection(http.client.HTTPConnection):
    """A connection to the origin of a URL. Redirects are not followed, proxies are not used, certificates are verified.

    `timeout` (seconds) is for connecting to an address and for each read; `abort` ends a call from another thread. `tls` is
    called for https.
    """

    def __init__(self, url: URL, timeout: float, allowed: Sequence[Network], tls: Callable[[], ssl.SSLContext]) -> None:
        assert url.raw_host is not None
        super().__init__(url.raw_host, url.port, timeout=timeout)
        self.origin = url.origin()
        # Whether a connection was made, now or earlier.
        self.is_connected = False
        self._idle_until = 0.0
        self._aborted = False
        self._seconds = timeout
        self._allowed = allowed
        self._tls = tls if url.scheme == "https" else None

    def connect(self) -> None:
        """Connect to the first address of the host that answers; only to allowed ones."""
        failure: OSError = OSError("the name has no address")
        found = _look_up(self.host, self.port)
        for number, (family, kind, protocol, _, address) in enumerate(found, start=1):
            self._check_aborted()
            try:
                self.sock = open_socket(family, kind, protocol, str(address[0]), self._allowed)
                self.sock.settimeout(self._seconds if number == len(found) else _NEXT_ADDRESS_DELAY)
                self.sock.connect(address)
                break
            except OSError as exc:
                # A refused address says more than one that does not answer.
                failure = failure if isinstance(failure, RefusedTarget) else exc
                self._close_socket()
        else:
            raise failure
        self._check_aborted()
        self.sock.settimeout(self._seconds)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            # The handshake is separate so that `abort` finds the socket.
            self.sock = self._tls().wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self._check_aborted()
            self.sock.do_handshake()
        self.is_connected = True

    def get(self, url: URL, headers: Mapping[str, str], max_bytes: int) -> tuple[int, bytes]:
        """GET; the status and at most `max_bytes` of the body. Raises OSError and http.client.HTTPException."""
        return self._call("GET", url, headers, None, max_bytes)

    def post(self, url: URL, headers: Mapping[str, str], body: bytes, max_bytes: int) -> tuple[int, bytes]:
        """POST of JSON; as `get`. It is sent again if the server closes an idle connection."""
        return self._call("POST", url, {**headers, "Content-Type": "application/json"}, body, max_bytes)

    def _call(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None, max_bytes: int
    ) -> tuple[int, bytes]:
        try:
            response = self._send(method, url, headers, body)
        except (ConnectionError, ssl.SSLError):
            # The server closed the idle connection.
            if not self._idle_until:
                raise
            self.close()
            response = self._send(method, url, headers, body)
        with response:
            answer = response.read(max_bytes)
            is_complete = response.isclosed()
        self._check_aborted()
        if is_complete:
            self._idle_until = time.monotonic() + _KEEPALIVE_TIMEOUT
        else:
            self.close()
        return response.status, answer

    def is_reusable(self) -> bool:
        """Whether another call may use the connection now."""
        return self.sock is not None and not self._aborted and time.monotonic() < self._idle_until

    def abort(self) -> None:
        """End the call under way: its reads fail."""
        self._aborted = True
        if self.sock is not None:
            with suppress(OSError, ValueError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def _close_socket(self) -> None:
        """`close` would make http.client forget the request."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def _check_aborted(self) -> None:
        if self._aborted:
            raise TimeoutError("the call was aborted")

    def _send(self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None) -> http.client.HTTPResponse:
        own = {"Host": url.host_port_subcomponent or self.host}
        if url.user is not None:
            own["Authorization"] = "Basic " + b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        self.request(method, url.raw_path_qs, body, headers={**headers, **own})
        return self.getresponse()
