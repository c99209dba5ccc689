"""Logging: structlog on standard error, one JSON object or one line of text per entry.

Nothing personal is logged: of an exception its type and where it was raised, and its message only where that quotes no data.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog

from app.core.config import Settings, SettingsError
from app.core.errors import Unavailable

# Seconds between two entries with the same message, of level warning or above.
_INTERVAL = 1.0
_MAX_MESSAGES = 1_000
_MAX_LENGTH = 300
# Their messages are our own, or name a file or a host.
_QUOTES_NO_DATA = (Unavailable, SettingsError, OSError)


class _StandardError:
    """The standard error stream at the time of the write: loggers outlive redirections."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


_STANDARD_ERROR = cast(TextIO, _StandardError())


def configure(settings: Settings, *processors: structlog.typing.Processor) -> None:
    """Write structlog and the standard library's loggers to standard error in the format and level of the settings.

    `processors` add what only some processes know of an entry.
    """
    level = getattr(logging, settings.log_level.upper())
    shared = [*processors, *_shared_processors()]
    structlog.configure(
        processors=[OncePerSecond(), *shared, _renderer(settings.log_format)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(_STANDARD_ERROR),
        cache_logger_on_first_use=True,
    )
    logger = logging.getLogger("app")
    logger.handlers, logger.propagate = [make_handler(settings.log_format, *processors)], False
    logger.setLevel(level)
    # Libraries: what they say is not ours, and may quote data after its first line.
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Handler)]
    root.addHandler(make_handler(settings.log_format, *processors, _first_line))


class _Handler(logging.StreamHandler[TextIO]):
    """A handler of ours, which `configure` replaces."""


def make_handler(log_format: str, *processors: structlog.typing.Processor) -> logging.Handler:
    """A handler of the standard library's logging that writes to standard error as structlog does."""
    handler = _Handler(_STANDARD_ERROR)
    handler.addFilter(_OncePerSecondFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.ExtraAdder(["request_id", "suppressed"]),
                *processors,
                *_shared_processors(),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(log_format)],
        )
    )
    return handler


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(lambda exc_info: format_exception(exc_info[1])),
    ]


def _renderer(log_format: str) -> structlog.typing.Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.dev.ConsoleRenderer(colors=False)


def _first_line(logger: Any, name: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    entry["event"] = str(entry.get("event")).partition("\n")[0][:_MAX_LENGTH]
    return entry


class OncePerSecond:
    """Drops warnings and errors whose message was logged less than a second ago: an outage affects every request.

    The next entry with the message has their number as `suppressed`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # For each message, when it was last logged, and how many entries were dropped since.
        self._seen: dict[str, tuple[float, int]] = {}

    def __call__(self, logger: Any, name: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """The entry; raises DropEvent."""
        if name in ("debug", "info"):
            return entry
        message, now = str(entry.get("event")), self._clock()
        with self._lock:
            logged_at, dropped = self._seen.get(message, (now - _INTERVAL, 0))
            if now - logged_at < _INTERVAL:
                self._seen[message] = logged_at, dropped + 1
                raise structlog.DropEvent
            if len(self._seen) >= _MAX_MESSAGES:
                self._seen.clear()
            self._seen[message] = now, 0
        if dropped:
            entry["suppressed"] = dropped
        return entry


class _OncePerSecondFilter(logging.Filter):
    """`OncePerSecond` for the standard library: by the message before its arguments are filled in."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = OncePerSecond()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        try:
            entry = self._limit(None, record.levelname.lower(), {"event": record.msg})
        except structlog.DropEvent:
            return False
        if "suppressed" in entry:
            record.suppressed = entry["suppressed"]
        return True


def describe_exception(exc: BaseException) -> str:
    """An exception in one line: its type, the error code of Postgres, and its message where that quotes no data."""
    if isinstance(exc, _QUOTES_NO_DATA):
        return (str(exc).partition("\n")[0] or type(exc).__name__)[:_MAX_LENGTH]
    code = getattr(getattr(exc, "orig", exc), "pgcode", None)
    return f"{type(exc).__name__} {code}" if code else type(exc).__name__


def format_exception(exc: BaseException | None) -> str:
    """A traceback with the exceptions that led to this one, each described by `describe_exception`."""
    chain: list[str] = []
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        frames = "".join(traceback.format_tb(exc.__traceback__))
        chain.insert(0, f"Traceback (most recent call last):\n{frames}{type(exc).__module__}.{describe_exception(exc)}")
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    return "\n\nThen:\n\n".join(chain)
