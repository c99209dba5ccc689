"""gunicorn's `gevent_pywsgi` worker with a strict request handler (`request_handler`).

Each connection is a greenlet: a request that waits for Postgres or Redis delays no other one.
"""

from __future__ import annotations

import select
import time
from functools import partial
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIServer

from app.api.server.connection_counts import ConnectionCounts
from app.api.server.request_handler import RequestHandler
from app.api.server.request_head import Limits
from app.core import config

# Seconds for which connections stay open once the worker stops: a proxy may be sending a request on one that seems idle, and it
# must not send a POST again.
STOP_GRACE = 1.0
# Seconds for which a process leaves a new connection to one that has fewer.
_YIELD = 0.001


class Server(PyWSGIServer):
    """Accepts the connections of one listening socket."""

    def __init__(self, *arguments: Any, worker: Worker, **options: Any) -> None:
        super().__init__(*arguments, **options)
        cfg = worker.cfg
        self.worker = worker
        self.limits = Limits(cfg.limit_request_line, cfg.limit_request_fields, cfg.limit_request_field_size)
        self.keepalive: float = cfg.keepalive
        self.body_timeout = config.body_timeout()
        # The connections that wait for a request, the longest waiting first (a dict keeps the order), and until when they
        # may, in seconds of time.monotonic().
        self.idle: dict[RequestHandler, float] = {}
        self._has_yielded = False
        # Two gunicorns with one process each may have the same socket.
        self.max_accept = 1
        worker.servers.append(self)

    def update_environ(self) -> None:
        """Set the server's name without gevent's question to the DNS."""
        if isinstance(self.address, tuple):
            self.environ.setdefault("SERVER_NAME", self.address[0])
        super().update_environ()

    def do_read(self) -> Any:
        """Accept a connection; leave it for a moment to another process that has fewer."""
        self._has_yielded = not self._has_yielded and self.worker.has_more_connections()
        if not self._has_yielded:
            return super().do_read()
        self.stop_accepting()
        gevent.spawn_later(_YIELD, self._accept_again)
        return None

    def _accept_again(self) -> None:
        if self.started:
            # Where the other process has taken the connection, the next one is left to it, too.
            self._has_yielded = bool(select.select([self.socket], [], [], 0)[0])
            self.start_accepting()

    def handle(self, client: Any, address: Any) -> None:
        """Serve a connection to its end. When it takes the last slot, the longest idle connection makes room."""
        if self.pool.full():
            next((handler for handler in list(self.idle) if handler.close_if_silent()), None)
        self.worker.count_connections(1)
        try:
            super().handle(client, address)
        finally:
            self.worker.count_connections(-1)

    def count_request(self) -> None:
        """Stop the worker after `max_requests`."""
        worker = self.worker
        worker.nr += 1
        if worker.nr >= worker.max_requests and worker.alive:
            self.log.info("Autorestarting worker after current request.")
            worker.alive = False

    def is_last_response(self) -> bool:
        """Whether a connection has to end after its current response: the worker stops, or all slots are taken."""
        return not self.worker.alive or self.pool.full()


class Worker(GeventPyWSGIWorker):
    """Serves many connections at the same time in one process."""

    wsgi_handler = RequestHandler
    connection_counts = ConnectionCounts()

    alive: bool
    # Which of the web processes it is, from 1; deploy/gunicorn.conf.py sets it before the fork.
    number = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.servers: list[Server] = []
        self._connections = 0
        self._close_idle_after: float | None = None
        self.server_class = partial(Server, worker=self)

    def run(self) -> None:
        """Serve until the worker stops. From now on it counts as a process without connections."""
        self.count_connections(0)
        super().run()

    def count_connections(self, change: int) -> None:
        """A connection begins or ends."""
        self._connections += change
        if self.number and self.alive:
            self.connection_counts.set(self.number, self._connections)

    def has_more_connections(self) -> bool:
        """Whether another process has fewer, and takes new ones."""
        return self.connection_counts.another_has_fewer(self.number)

    def notify(self) -> None:
        """Called every second: close the connections that have been idle for too long; while stopping, all that still are idle
        after STOP_GRACE. Responses end their connections then, so that these have not been used meanwhile."""
        super().notify()
        now = time.monotonic()
        if not self.alive and self._close_idle_after is None:
            self._close_idle_after = now + STOP_GRACE
            self.connection_counts.remove(self.number)
        close_all = self._close_idle_after is not None and self._close_idle_after <= now
        for server in self.servers:
            for handler in [handler for handler, until in server.idle.items() if until <= now or close_all]:
                handler.close_if_silent()
