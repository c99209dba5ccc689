"""Flask-Limiter for token, resource and management routes, by decorators.

Counters are in Redis, or in the process's memory without REDIS_URL and while Redis is down. Event routes have the exact
per-account limit of `rate_limit` instead.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from ipaddress import ip_address

from flask import Flask, current_app, request
from flask_limiter import Limiter

from app.api.current import extension
from app.api.rate_limit import storage_options
from app.core.config import Settings

_lock = threading.Lock()


def client_address() -> str:
    """The client's address: the peer's, or behind TRUSTED_PROXIES the forwarded one. Never empty, which would not count.

    Without that setting, a peer on this machine that forwards an address is a proxy such as nginx, and no other peer is.
    """
    peer = request.remote_addr
    settings: Settings = extension("context").settings
    if settings.trusted_proxies is None and is_on_this_machine(peer):
        # The last one is what the proxy has added.
        return (request.access_route or ["unknown"])[-1]
    return peer or "unknown"


@lru_cache(maxsize=1_024)
def is_on_this_machine(peer: str | None) -> bool:
    """Whether a connection came through a Unix socket, whose peers have no address, or from a loopback address."""
    return not peer or ip_address(peer).is_loopback


limiter = Limiter(client_address, key_prefix="signalbox", in_memory_fallback_enabled=True)


def start_limiter_of(receivers: Flask) -> None:
    """Open the limiter of the receivers' app, whose counters the console and the management API share."""
    if "limiter" not in receivers.extensions:
        with receivers.app_context():
            start_limiter()


def start_limiter() -> None:
    """Open the limiter's storage in this process; blueprints with limits call it before each request.

    Not earlier: the memory storage starts a thread, which a forked process would inherit broken. `init_app` gets a Flask
    object of its own, because its hooks would run for every event (40 µs) although decorators work without them.
    """
    if "limiter" in current_app.extensions:
        return
    with _lock:
        if "limiter" in current_app.extensions:
            return
        settings: Settings = extension("context").settings
        host = Flask(current_app.import_name, static_folder=None)
        uri, options = storage_options(settings.redis_url)
        host.config.update(RATELIMIT_STORAGE_URI=uri, RATELIMIT_STORAGE_OPTIONS=options)
        limiter.init_app(host)
        # `flask limiter` looks for it here.
        current_app.extensions["limiter"] = host.extensions["limiter"]
