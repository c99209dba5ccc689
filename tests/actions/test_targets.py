"""A broken target holds back neither the other targets of its host nor, when it can be reached, the host."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from app import actions
from app.actions.circuit import FAILURE_THRESHOLD
from app.core.models import Outcome
from tests.support.action_contexts import an_action_context, in_a_session, the_settings
from tests.support.http_target import Answer, Call, HttpTarget, an_http_target
from tests.support.providers import WHATSAPP

# Of a worker with 50 slots a host has 12.
RUNS = 36


def _answer(call: Call) -> Answer:
    """500 for a path or a body that contains `broken`."""
    return Answer(500 if "broken" in call.path or b"broken" in call.body else 200)


@pytest.fixture
def server() -> Iterator[HttpTarget]:
    with an_http_target() as target:
        target.answer = _answer
        yield target


def in_one_worker(use: Callable[[Callable[..., Awaitable[Outcome]]], Awaitable[None]], **changes: Any) -> None:
    """Call `use` with a function that performs steps of one account in one worker."""

    async def run(session: Any) -> None:
        context = an_action_context(session, **changes)

        async def perform(step: dict[str, Any], **data: Any) -> Outcome:
            return await actions.perform(step, replace(context, names={**context.names, "data": data}))

        await use(perform)

    in_a_session(run)


async def _break(perform: Callable[..., Awaitable[Outcome]], step: dict[str, Any], **data: Any) -> None:
    """36 runs at a time, until they are deferred."""
    for _ in range(3):
        outcomes = await asyncio.gather(*(perform(step, **data) for _ in range(RUNS)))
    assert {outcome.kind for outcome in outcomes} == {"later"}
    assert {outcome.error_class for outcome in outcomes} == {"circuit_open"}


def test_a_healthy_path_is_called_at_once_beside_a_broken_one_of_the_same_host(server: HttpTarget) -> None:
    async def use(perform: Callable[..., Awaitable[Outcome]]) -> None:
        await _break(perform, {"http": {"url": server.url + "/broken"}})
        assert (await perform({"http": {"url": server.url + "/healthy"}})).kind == "done"

    in_one_worker(use)


def test_the_same_path_with_another_method_is_another_target(server: HttpTarget) -> None:
    async def use(perform: Callable[..., Awaitable[Outcome]]) -> None:
        await _break(perform, {"http": {"url": server.url + "/x", "body": "broken"}})
        assert (await perform({"http": {"url": server.url + "/x", "method": "GET"}})).kind == "done"

    in_one_worker(use)


def test_paths_with_ids_are_one_target(server: HttpTarget) -> None:
    step = {"http": {"url": server.url + "/broken/{{ data.id }}"}}

    async def use(perform: Callable[..., Awaitable[Outcome]]) -> None:
        for number in range(FAILURE_THRESHOLD):
            assert (await perform(step, id=number)).kind == "retry"
        outcome = await perform(step, id="another")
        assert outcome.held_by == f"POST {server.url}/broken/*"

    in_one_worker(use)


def test_a_broken_whatsapp_template_does_not_hold_back_another(server: HttpTarget) -> None:
    step = {"whatsapp": {"to": "{{ phone }}", "template": "broken", "language": "en"}}

    async def use(perform: Callable[..., Awaitable[Outcome]]) -> None:
        await _break(perform, step)
        assert (await perform(step)).held_by == "whatsapp template broken (en)"
        assert (await perform({"whatsapp": {**step["whatsapp"], "template": "cart_rescue"}})).kind == "done"

    settings = replace(the_settings(), whatsapp_base_url=server.url)
    in_one_worker(use, settings=settings, integration={"whatsapp": WHATSAPP}.get)


def test_a_broken_sender_does_not_hold_back_another(server: HttpTarget) -> None:
    step = {"sms": {"to": "{{ phone }}", "text": "broken", "from": "Acme"}}
    twilio = {"account_sid": "AC" + "0" * 32, "auth_token": "t"}

    async def use(perform: Callable[..., Awaitable[Outcome]]) -> None:
        await _break(perform, step)
        assert (await perform(step)).held_by == "sms from Acme"
        assert (await perform({"sms": {**step["sms"], "text": "hello", "from": "Globex"}})).kind == "done"

    in_one_worker(use, settings=replace(the_settings(), twilio_base_url=server.url), integration={"twilio": twilio}.get)


def test_a_host_that_cannot_be_reached_holds_back_all_its_targets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"

    async def use(perform: Callable[..., Awaitable[Outcome]]) -> None:
        for number in range(FAILURE_THRESHOLD):
            outcome = await perform({"http": {"url": f"http://{host}/{number}"}})
            assert outcome.error_class == "connection"
        outcome = await perform({"http": {"url": f"http://{host}/other"}})
        assert (outcome.kind, outcome.held_by) == ("later", host)

    in_one_worker(use)


def test_a_target_that_does_not_answer_in_time_is_no_unreachable_host(server: HttpTarget) -> None:
    step = {"http": {"url": server.url + "/slow"}}
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.before_answer = lambda call: time.sleep(0.0 if "healthy" in call.path else 0.5)

    async def use(perform: Callable[..., Awaitable[Outcome]]) -> None:
        for _ in range(FAILURE_THRESHOLD):
            assert (await perform(step)).error_class == "timeout"
        assert (await perform(step)).held_by == f"POST {server.url}/slow"
        assert (await perform({"http": {"url": server.url + "/healthy"}})).kind == "done"

    in_one_worker(use, timeout=0.2)
