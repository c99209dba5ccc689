"""What a worker does for each kind of job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

import structlog

from app.db import match_state
from app.db.job_queue import CORRELATE, DEADLINE, ERASE, MAP, MATCH, RUN
from app.worker.executor import RunExecutor

# How to parse the parts of a payload, which are separated by colons.
Parsers = tuple[Callable[[str], object], ...]
Handlers = Mapping[str, tuple[Callable[..., Awaitable[None]], Parsers]]

_log = structlog.get_logger()


def make_handlers(executor: RunExecutor) -> Handlers:
    """A function for each kind of job, and the parsers of its arguments."""
    return {
        RUN: (executor.advance, (int, UUID, int)),
        CORRELATE: (executor.wake, (int, UUID)),
        MATCH: (executor.match, (int, UUID)),
        MAP: (executor.map, (int, UUID)),
        ERASE: (executor.erase, (int, UUID, str)),
        DEADLINE: (executor.fire_deadline, (int, UUID, match_state.subject_of_payload)),
    }


async def call_handler(handlers: Handlers, kind: str, payload: str) -> None:
    """Do what a job says. One whose payload cannot be parsed does nothing."""
    handle, parsers = handlers[kind]
    try:
        arguments = [parse(part) for parse, part in zip(parsers, payload.split(":"), strict=True)]
    except ValueError:
        _log.error("a job with an invalid payload is dropped", kind=kind, account=payload.partition(":")[0][:20])
        return
    await handle(*arguments)
