"""Names that hang delay only the calls of their account."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from app.actions.action_context import calling_account
from app.actions.name_resolver import NameResolver

ADDRESS = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))


class NameServers:
    """Names that begin with `hang` hang until `end` is set."""

    def __init__(self) -> None:
        self.queried: list[str] = []
        self.end = threading.Event()

    def look_up(self, host: str, *_: object, **__: object) -> list[Any]:
        self.queried.append(host)
        if host.startswith("hang"):
            self.end.wait(30)
        return [ADDRESS]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServers]:
    found = NameServers()
    monkeypatch.setattr(socket, "getaddrinfo", found.look_up)
    yield found
    found.end.set()


async def resolve(resolver: NameResolver, account: int, name: str) -> str:
    calling_account.set(account)
    return (await resolver.resolve(name, 80))[0]["host"]


def test_names_that_hang_do_not_delay_those_of_other_accounts(servers: NameServers) -> None:
    async def run() -> None:
        resolver = NameResolver()
        hanging = [asyncio.create_task(resolve(resolver, 1, f"hang{number}")) for number in range(200)]
        await asyncio.sleep(0)
        # Also a name for which the other account waits in vain.
        waiting = asyncio.create_task(resolve(resolver, 1, "shared"))
        assert await asyncio.wait_for(asyncio.create_task(resolve(resolver, 2, "shared")), 20) == "192.0.2.1"
        assert len([name for name in servers.queried if name.startswith("hang")]) == 4
        for task in (*hanging, waiting):
            task.cancel()
        servers.end.set()
        await resolver.close()

    asyncio.run(run())


def test_a_look_up_that_nobody_waits_for_keeps_the_turn_of_its_account_until_it_ends(servers: NameServers) -> None:
    async def run() -> None:
        resolver = NameResolver()
        for number in range(4):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(resolve(resolver, 1, f"hang{number}"), 0.2)
        waiting = asyncio.create_task(resolve(resolver, 1, "a"))
        assert await asyncio.wait_for(asyncio.create_task(resolve(resolver, 2, "b")), 20) == "192.0.2.1"
        assert "a" not in servers.queried
        servers.end.set()
        assert await asyncio.wait_for(waiting, 20) == "192.0.2.1"
        await resolver.close()

    asyncio.run(run())


def test_calls_that_begin_together_do_not_look_up_a_name_one_after_the_other(servers: NameServers) -> None:
    async def run() -> None:
        resolver = NameResolver()
        await asyncio.gather(*(resolve(resolver, 1, "a") for _ in range(50)))
        await resolver.close()

    asyncio.run(run())
    assert len(servers.queried) <= 4


def test_a_look_up_that_nobody_waits_for_is_not_made_again(servers: NameServers) -> None:
    async def run() -> None:
        resolver = NameResolver()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolve(resolver, 1, "hang"), 0.2)
        servers.end.set()
        # Waits for the look-up.
        await asyncio.to_thread(resolver._threads.shutdown)
        assert await resolve(resolver, 1, "hang") == "192.0.2.1"

    asyncio.run(run())
    assert servers.queried == ["hang"]


def test_a_name_is_looked_up_once_in_ten_seconds(servers: NameServers) -> None:
    async def run() -> None:
        resolver = NameResolver()
        for account in (1, 2, 1):
            await resolve(resolver, account, "a")
        await resolver.close()

    asyncio.run(run())
    assert servers.queried == ["a"]
