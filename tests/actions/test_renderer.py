"""Templates are rendered in threads, one attempt of an account at a time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import pytest

from app.actions.circuit import Deferred
from app.actions.renderer import Renderer
from tests.support.action_contexts import perform

TWILIO = {"account_sid": "AC" + "0" * 32, "auth_token": "t", "from": "+14155550100"}
INTEGRATIONS: dict[str, dict[str, str]] = {
    "twilio": TWILIO,
    "whatsapp": {"access_token": "t", "phone_number_id": "12345"},
    "sendgrid": {"api_key": "t", "from": "a@example.com"},
    "smtp": {"host": "127.0.0.1", "from": "a@example.com", "port": "1"},
}


def test_the_data_of_locales_are_read_before_the_first_text_is_rendered() -> None:
    script = (
        "from app.actions.renderer import Renderer; import babel.core; Renderer(); assert babel.core._global_data; "
        "from app.actions.templates.locales import read_locale; assert read_locale.cache_info().currsize"
    )
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)


class Spy(Mapping[str, Any]):
    """Data that record which threads read them."""

    def __init__(self) -> None:
        self.readers: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.readers.add(threading.current_thread().name.partition("_")[0])
        return {"phone": "+14155550100", "text": "hello"}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("phone", "text"))

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    "step",
    [
        {"http": {"url": "http://10.0.0.1/", "body": "{{ data.text }}"}},
        {"sms": {"to": "{{ data.phone }}", "text": "{{ data.text }}"}},
        {"call": {"to": "{{ data.phone }}", "say": "{{ data.text }}"}},
        {"whatsapp": {"to": "{{ data.phone }}", "template": "a", "language": "en", "params": ["{{ data.text }}"]}},
        {"sendgrid": {"to": "a@example.com", "subject": "{{ data.text }}", "text": {"mustache": "{{data.text}}"}}},
        {"email": {"to": "a@example.com", "subject": "{{ data.text }}", "text": "{{ data.text }}"}},
        {"message": {"text": "{{ data.text }}", "data": {"a": "{{ data.text }}"}}},
        {"log": "{{ data.text }}"},
    ],
    ids=lambda step: next(iter(step)),
)
def test_each_action_renders_off_the_event_loop(step: dict[str, Any]) -> None:
    spy = Spy()

    async def save(text: str, data: Mapping[str, Any]) -> UUID:
        return UUID(int=1)

    perform(step, "10.9.9.9/32", names={"data": spy}, integration=INTEGRATIONS.get, save_message=save)
    assert spy.readers == {"render"}


def test_an_account_renders_one_attempt_at_a_time_and_others_do_not_wait() -> None:
    async def check() -> None:
        renderer, gate, is_held, begun = Renderer(), threading.Event(), threading.Event(), []

        def hold(name: str) -> str:
            begun.append(name)
            is_held.set()
            gate.wait(10)
            return name

        held = [asyncio.create_task(renderer.run(1, hold, name)) for name in ("first", "second")]
        assert await renderer.run(2, str.upper, "other account") == "OTHER ACCOUNT"
        await asyncio.to_thread(is_held.wait, 10)
        assert begun == ["first"]
        gate.set()
        assert await asyncio.gather(*held) == ["first", "second"]

    asyncio.run(check())


def test_a_cancelled_rendering_keeps_its_account_waiting_until_it_has_ended() -> None:
    async def check() -> None:
        renderer, gate, ended = Renderer(), threading.Event(), []

        def hold() -> None:
            gate.wait(10)
            ended.append("cancelled one")

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(renderer.run(1, hold), 0.05)
        following = asyncio.create_task(renderer.run(1, ended.append, "next one"))
        await renderer.run(2, str, "x")
        assert ended == []
        gate.set()
        await following
        assert ended == ["cancelled one", "next one"]

    asyncio.run(check())


def test_an_attempt_that_would_wait_long_is_deferred_and_later_ones_come_back_after_it() -> None:
    async def check() -> None:
        times = [0.0]
        renderer, gate = Renderer(clock=lambda: times[0]), threading.Event()
        held = asyncio.create_task(renderer.run(1, gate.wait, 10))
        await renderer.run(2, str, "x")
        times[0] = 2.0
        deferrals = []
        for _ in range(3):
            with pytest.raises(Deferred, match="rendered one after the other") as caught:
                await renderer.run(1, str, "x")
            deferrals.append(caught.value.seconds)
        assert caught.value.error_class == "busy"
        assert all(
            0.8 * expected <= seconds <= 1.2 * expected for expected, seconds in zip((2, 4, 6), deferrals, strict=True)
        )
        times[0] = 0.0
        gate.set()
        await held
        assert await renderer.run(1, str, 5) == "5"

    asyncio.run(check())


def test_after_a_long_rendering_the_account_pauses_and_others_do_not() -> None:
    async def check() -> None:
        times = [0.0]
        renderer = Renderer(clock=lambda: times[0])
        await renderer.run(1, times.__setitem__, 0, 2.0)
        assert await renderer.run(2, str, "x") == "x"
        with pytest.raises(Deferred):
            await renderer.run(1, str, "x")

    asyncio.run(check())


def test_errors_of_the_thread_are_raised_and_the_account_goes_on() -> None:
    async def check() -> None:
        renderer = Renderer()
        with pytest.raises(ZeroDivisionError):
            await renderer.run(1, lambda: 1 // 0)
        assert await renderer.run(1, str, 5) == "5"

    asyncio.run(check())
