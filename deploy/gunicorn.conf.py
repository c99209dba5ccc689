"""gunicorn's settings, for `make run` and for servers: `gunicorn -c deploy/gunicorn.conf.py wsgi:app`."""

import gc
import itertools
import os
import re
import sys
import threading

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


# Only this machine by default: nginx with TLS belongs in front. BIND takes whatever gunicorn takes
# (0.0.0.0:8000, [::]:8000, unix:/run/signalbox.sock).
bind = _setting("BIND", f"127.0.0.1:{_setting('PORT', '8000')}")
_port = re.search(r"(?:[^:]|\]):(\d+)$", bind)
if _port and not 0 < int(_port[1]) < 65_536:
    sys.exit(f"BIND={bind!r} cannot be used: expected a port from 1 to 65535")
if bind.startswith("unix:") and not os.access(os.path.dirname(os.path.abspath(bind[5:])), os.W_OK | os.X_OK):
    sys.exit(f"BIND={bind!r} cannot be used: its folder does not exist, or this user may not write to it")

# One process while the rate limit counts in its memory; with REDIS_URL, one for each core that Postgres leaves.
workers = int(_number("WEB_CONCURRENCY", "1"))

# A greenlet per connection: a slow sender or a slow statement delays no other request, and events that arrive at the same
# time are written together (group commit). Worker is gunicorn's gevent_pywsgi worker with strict parsing.
worker_class = "app.api.server.gunicorn_worker.Worker"
# Idle connections are closed when all of these are taken.
worker_connections = 1000

# The app is loaded before the processes are forked: a new one starts at once, and they share its memory. Each process opens
# its own connections to Postgres and Redis with its first request. SIGHUP does not load new code.
preload_app = True

# A process that has not reported to gunicorn for so long (it does so every second) is replaced.
try:
    _body_timeout = body_timeout()
except SettingsError as exc:
    sys.exit(str(exc))
timeout = int(_body_timeout) + 20

# Requests that are under way when we stop may still arrive in full and be stored.
graceful_timeout = int(_body_timeout) + 5

# Longer than nginx keeps its idle connections (60 s), so that we never close one that it is about to use.
keepalive = 75

# Connections that may wait in the kernel while a process restarts or is busy: a burst is late, not refused.
backlog = 2048

# A fresh process now and then ends slow memory leaks of libraries; the jitter keeps all from ending at the same time.
max_requests = 100_000
max_requests_jitter = 20_000

# The longest path has about 100 characters, and senders set a dozen headers. At most half a MiB is read of a head.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# Each event is a row and each refusal a number in the metrics. ACCESS_LOG=1 writes a line per request without its path, which
# may contain a token; gunicorn's own access log would write the path.
accesslog = None

# Errors go to standard error in the format of LOG_FORMAT; LOG_LEVEL=info adds starts and stops.
loglevel = _setting("LOG_LEVEL", "warning")
logger_class = "app.api.server.gunicorn_log.StructuredLogger"

# Two servers of one user would fight for the socket for remote control, which we do not use.
control_socket_disable = True


def on_starting(server):
    """Refuse more than one process while each would count the rate limit for itself. (`wsgi.py` refuses wrong settings.)"""
    if server.cfg.workers > 1 and not _setting("REDIS_URL", ""):
        sys.exit(
            f"Refused to start {server.cfg.workers} web processes without REDIS_URL: each would count the rate limits "
            "for itself. Set REDIS_URL to a Redis that all of them reach, or WEB_CONCURRENCY=1."
        )


def when_ready(server):
    """Hide what is loaded from the garbage collector, whose writes would end the sharing of its memory."""
    gc.collect()
    gc.freeze()


def pre_fork(server, worker):
    """Give a web process the lowest free number. It continues the files in PROMETHEUS_MULTIPROC_DIR of one that has ended: with
    files of its own, each that is started after max_requests would make /metrics slower."""
    taken = {running.number for running in server.WORKERS.values()}
    worker.number = next(number for number in itertools.count(1) if number not in taken)


def _metrics_name(worker):
    return f"web-{worker.ppid}-{worker.number}"


def post_fork(server, worker):
    """Name the files in which a web process counts."""
    if _setting("PROMETHEUS_MULTIPROC_DIR", ""):
        from app.core.metrics import name_process

        name_process(_metrics_name(worker))


def post_worker_init(worker):
    """Let each web process create the partitions of the coming months and watch what it needs, in threads of their own."""
    extensions = getattr(worker.wsgi, "extensions", {})
    if "context" in extensions:
        from app.services.partitions import keep_making_partitions

        arguments = (extensions["context"],)
        threading.Thread(target=keep_making_partitions, args=arguments, name="partitions", daemon=True).start()
        extensions["monitor"].start()


def child_exit(server, worker):
    """Remove an ended web process from what several processes share."""
    if hasattr(worker, "connection_counts"):
        worker.connection_counts.remove(worker.number)
    if _setting("PROMETHEUS_MULTIPROC_DIR", ""):
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(_metrics_name(worker))
