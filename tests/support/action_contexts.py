"""Makes action contexts: a run of an event, and a session to servers on this machine."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import aiohttp
from msgspec import structs

from app import actions
from app.actions import http_session
from app.actions.circuit_breaker import CircuitBreakers
from app.actions.renderer import Renderer
from app.core import config
from app.core.config import Settings
from app.core.models import Event, Outcome, Run
from tests.support.certificates import a_certificate
from tests.support.http_target import HttpTarget, serving

T = TypeVar("T")

NOW = datetime(2026, 11, 22, 12, 30, 0, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "019a0000-0000-7000-8000-000000000002-0"
DATA_JSON = '{"price": 1999, "exact": 0.1234567890123456789, "big": 12345678901234567890123, "key ": "\\u00fc"}'


def the_settings(*allowed: str) -> Settings:
    """Settings that allow only the private networks `allowed`."""
    chosen = config.from_environment({"DATABASE_URL": "postgresql:///nowhere", "ENCRYPTION_KEY": ""})
    return replace(chosen, allowed_private_targets=tuple(map(ip_network, allowed)))


def an_event(**changes: Any) -> Event:
    event = Event(
        id=UUID("019a0000-0000-7000-8000-000000000001"),
        account_id=7,
        event="order_placed",
        distinct_id="915673412780",
        phone="+915673412780",
        data={"price": 1999},
        data_json=DATA_JSON,
        extra_json=None,
        received_at=datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC),
    )
    return structs.replace(event, **changes)


def a_run(**changes: Any) -> Run:
    run = Run(
        id=UUID("019a0000-0000-7000-8000-000000000002"),
        account_id=7,
        workflow_id=UUID("019a0000-0000-7000-8000-000000000003"),
        workflow="cart-rescue",
        version=3,
        document={},
        status="running",
        at="steps[0]",
        ordinal=0,
        attempt=0,
        forgiven=0,
        turn=0,
        job=1,
        event=an_event(),
        outputs={},
        matched=(an_event(),),
    )
    return replace(run, **changes)


def an_action_context(session: aiohttp.ClientSession, **changes: Any) -> actions.ActionContext:
    context = actions.ActionContext(
        run=a_run(),
        names={"event": "order_placed", "phone": "+915673412780", "data": {"price": 1999}, "steps": {}},
        idempotency_key=KEY,
        signing_secret=SECRET,
        timeout=5.0,
        now=NOW,
        session=session,
        circuit_breakers=CircuitBreakers(50),
        renderer=Renderer(),
        settings=the_settings(),
        integration={}.get,
        find_secret={}.get,
        disabled={},
        save_message=_save_no_message,
    )
    return replace(context, **changes)


async def _save_no_message(text: str, data: Mapping[str, Any]) -> UUID:
    raise AssertionError("this step sends no message")


def in_a_session(use: Callable[[aiohttp.ClientSession], Awaitable[T]], *allowed: str) -> T:
    """The result of `use` with a session that may call the networks `allowed` (default: this machine)."""

    async def run() -> T:
        async with http_session.open_session(the_settings(*(allowed or ("127.0.0.0/8", "::1/128")))) as session:
            return await use(session)

    return asyncio.run(run())


def perform(step: dict[str, Any], *allowed: str, **changes: Any) -> Outcome:
    """The outcome of one attempt of a step."""
    return in_a_session(lambda session: actions.perform(step, an_action_context(session, **changes)), *allowed)


@contextmanager
def a_tls_target(folder: Path) -> Iterator[HttpTarget]:
    """A TLS target with a certificate that is not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(a_certificate(folder))
    server = HttpTarget()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    with serving(server):
        yield server
