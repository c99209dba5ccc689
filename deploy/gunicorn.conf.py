"""gunicorn's settings, for `make run` and for servers: `gunicorn -c deploy/gunicorn.conf.py wsgi:app`."""

import gc
import os
import sys

from gevent import monkey

# Before anything else is imported: what is loaded here is loaded once, for all web processes.
monkey.patch_all()

from app.core.config import SettingsError, body_timeout  # noqa: E402


def _setting(name: str, default: str) -> str:
    return os.environ.get(name, "").strip() or default


def _number(name: str, default: str) -> float:
    text = _setting(name, default)
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 10_000:
        sys.exit(f"{name}={text!r} cannot be used: expected a number above 0")
    return value


# Only this machine by default: outside there should be nginx with TLS in front. BIND takes all that gunicorn takes
# (0.0.0.0:8000, [::]:8000, unix:/run/signalbox.sock).
bind = _setting("BIND", f"127.0.0.1:{_setting('PORT', '8000')}")

# One process as long as the rate limit counts in its memory; with REDIS_URL, one for each core that Postgres leaves.
workers = int(_number("WEB_CONCURRENCY", "1"))

# A greenlet per connection: a sender who is slow, or Postgres that is, holds up nobody else, and what arrives at the same
# time is written together. It answers even garbage with problem documents.
worker_class = "app.api.server.gunicorn_worker.Worker"
worker_connections = 1000

# Loaded before the processes are forked: a new one is there at once, and they share its memory. Nothing is connected by
# then: each process opens its own connections to Postgres and Redis with its first request. SIGHUP reads no new code.
preload_app = True

# A worker tells every second that it is not stuck; one that does not for so long is ended and replaced.
try:
    _body_timeout = body_timeout()
except SettingsError as exc:
    sys.exit(str(exc))
timeout = int(_body_timeout) + 20

# Requests that are on their way when we stop may still arrive in full and be stored.
graceful_timeout = int(_body_timeout) + 5

# Longer than nginx keeps its idle connections to us (60 s), so that we never close one that it is about to use.
keepalive = 75

# Connections that may wait in the kernel while a worker is restarted or busy: a burst is late, not refused.
backlog = 2048

# A fresh process now and then, so that no slow leak of memory in any library lasts; not all at the same moment.
max_requests = 100_000
max_requests_jitter = 20_000

# Our longest path has some 100 characters, our senders a dozen headers; together at most half a MiB is read of a head.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# gunicorn takes its C parser where somebody has installed it: a twentieth less CPU, but some of what is no proper HTTP is
# answered otherwise than docs/receiving.md says.
http_parser = "python"

# Nobody may change what a request asks for by its headers (scheme, path), so nobody's address has to be looked up for it.
forwarded_allow_ips = "*"
secure_scheme_headers = {}
forwarder_headers = ""

# Each event is a row, each refusal a number in the metrics: a line per request would only cost. So would hooks, and trusted
# headers about the scheme: with any of them, plain requests have no short way past gunicorn's parser.
accesslog = None

# gunicorn says on standard error what goes wrong; LOG_LEVEL=info adds its starts and stops.
loglevel = _setting("LOG_LEVEL", "warning")

# A socket for remote control, at one place per user: two servers of one user would fight for it, and we never use it.
control_socket_disable = True


def on_starting(server):
    """Refuse more than one process while each would count the rate limit for itself. (`wsgi.py` refuses wrong settings.)"""
    if server.cfg.workers > 1 and not _setting("REDIS_URL", ""):
        sys.exit(
            f"Refused to start {server.cfg.workers} web processes without REDIS_URL: each would count the rate limits "
            "for itself. Set REDIS_URL to a Redis that all of them reach, or WEB_CONCURRENCY=1."
        )


def when_ready(server):
    """What is loaded stays: out of the garbage collector's sight it is never written to, and so remains shared."""
    gc.collect()
    gc.freeze()


def child_exit(server, worker):
    """Take a process that ended out of the gauges, where several count together."""
    if _setting("PROMETHEUS_MULTIPROC_DIR", ""):
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)
