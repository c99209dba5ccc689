"""One attack from beginning to end: start the product, measure the victim, attack, measure it again; and the table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.core.models import EVENTS_WRITE, PLANS
from app.services import accounts, api_keys, workflows
from app.services.context import AppContext
from bench.attack.flood import MAX_OPEN, flood
from bench.attack.processes import Processes, watched
from bench.attack.victim import EVENT, Delays, victim
from bench.measuring import median, p99
from bench.servers import Backends, backends, ours

RATE = 40
PARTS = 5


@dataclass(frozen=True)
class Account:
    """An account of the product, and the headers of a request that its key authenticates."""

    account: int
    slug: str
    headers: Mapping[str, str]

    def request(self, path: str, body: Any, *, method: str = "POST", headers: Mapping[str, str] | None = None) -> bytes:
        """A whole HTTP request of this account; `body` is bytes, or JSON to write."""
        return http_request(path, body, method=method, headers={**self.headers, **(headers or {})})


def http_request(path: str, body: Any, *, method: str = "POST", headers: Mapping[str, str]) -> bytes:
    """A whole HTTP request; `body` is bytes, or JSON to write."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


@dataclass
class Stage:
    """What an attack can use: the product's settings and database, the port of the one web process, the attacker's account (plan
    `standard`) and the victim's, a URL at which the victim's runs call, and the processes."""

    base: Backends
    context: AppContext
    port: int
    attacker: Account
    victim: Account
    victim_target: str
    processes: Processes
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a figure to the row's last column."""
        self.notes.append(text)

    def fail(self, text: str) -> None:
        """Say that a bound did not hold."""
        self.failures.append(text)

    @contextmanager
    def flood(
        self, request: Callable[[int], bytes], *, rate: float, max_open: int = MAX_OPEN
    ) -> Iterator[Counter[str]]:
        """Send requests to the product until the block ends; yields how many were answered how, which the row shows."""
        with flood(self.port, request, rate=rate, max_open=max_open) as answers:
            yield answers
        self.note("answers: " + ", ".join(f"{count:,} × {status}" for status, count in sorted(answers.items())))


@dataclass(frozen=True)
class Attack:
    """An attack: its function, what the attacker sends and which bound protects the others, both in words.

    `runs`: start a worker, give the victim a workflow that calls it for each event, and measure the arrival of these calls, too.
    `max_added_ms`: how much the victim's 99th percentile may grow. `max_restarts`: how many processes may be started again.
    `rate`: events that the victim sends a second.
    """

    run: Callable[[Stage], AbstractContextManager[None]]
    sends: str
    bound: str
    runs: bool = False
    max_added_ms: float = 50.0
    max_restarts: int = 0
    rate: float = RATE


@dataclass(frozen=True)
class Row:
    """What was measured: the victim's delays before and during the attack, in milliseconds (NaN: nothing was answered)."""

    name: str
    attack: Attack
    measured: str
    median: tuple[float, float]
    p99: tuple[float, float]
    failures: tuple[str, ...]
    restarts: int
    notes: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """Whether the bounds held."""
        before, during = self.p99
        return (
            not self.failures
            and self.restarts <= self.attack.max_restarts
            and during - before <= self.attack.max_added_ms
        )


def attacked(name: str, attack: Attack, *, seconds: float, rate: float | None = None) -> list[Row]:
    """The rows of one attack: the answers to the victim's events, and the calls of its runs if it has any."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        log = stack.enter_context((base.folder / "log").open("ab"))
        # One web process: what blocks it delays everybody.
        url, gunicorn = stack.enter_context(ours(base, log=log, WEB_CONCURRENCY="1"))
        processes = stack.enter_context(watched(gunicorn, base.environment, log, worker=attack.runs))
        person = stack.enter_context(victim())
        context = AppContext(base.settings)
        stack.callback(context.database.close)
        port = int(url.rsplit(":", 1)[1])
        attacker, other = _account(context, "attacker", "standard"), _account(context, "victim", "unlimited")
        stage = Stage(base, context, port, attacker, other, person.target, processes)
        if attack.runs:
            document = {"name": "call", "on": EVENT, "steps": [{"http": {"url": person.target}}]}
            workflows.apply_workflow(context, other.account, json.dumps(document))

        def measure(duration: float) -> Delays:
            return person.measure(port, other.headers, seconds=duration, rate=rate or attack.rate, runs=attack.runs)

        # The first requests open connections and load what is needed.
        measure(min(3.0, seconds))
        before = measure(seconds)
        with attack.run(stage):
            during = measure(seconds)
        stage.note(f"{len((base.folder / 'log').read_bytes().splitlines()):,} lines of log")
        return _rows(name, stage, before, during, attack)


def _account(context: AppContext, slug: str, plan: str) -> Account:
    number = accounts.create_account(context, slug, PLANS[plan])
    key = api_keys.create_key(context, number, slug, (EVENTS_WRITE,))
    headers = {"x-limechat-uat": key, "x-fb-account-id": str(number), "Content-Type": "application/json"}
    return Account(number, slug, headers)


def _rows(name: str, stage: Stage, before: Delays, during: Delays, attack: Attack) -> list[Row]:
    failures = (*(f"before the attack: {text}" for text in before.failures), *during.failures, *stage.failures)
    found = []
    for measured in ("answers", "runs") if attack.runs else ("answers",):
        pairs = [getattr(delays, measured) or [float("nan")] for delays in (before, during)]
        found.append(
            Row(
                name,
                attack,
                measured,
                (median(pairs[0]), median(pairs[1])),
                (steady_p99(pairs[0]), steady_p99(pairs[1])),
                failures,
                stage.processes.restarts,
                tuple(stage.notes),
            )
        )
    return found


def steady_p99(late: list[float]) -> float:
    """The median, over `PARTS` parts of a measurement, of the 99th percentiles: one stall of the disk does not decide it."""
    size = -(-len(late) // PARTS)
    return median(p99(late[start : start + size]) for start in range(0, len(late), size))


def broken(name: str, attack: Attack, exc: BaseException) -> Row:
    """The row of an attack that raised."""
    nothing = (float("nan"), float("nan"))
    return Row(name, attack, "answers", nothing, nothing, (f"it raised {type(exc).__name__}: {exc}",), 0)


_HEADS = (
    "attack",
    "what the attacker sends",
    "victim's",
    "median ms, before → during",
    "99 % ms, before → during",
    "failures",
    "restarts",
    "bound",
    "held",
)


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [_line(_HEADS), _line("---" for _ in _HEADS)]
    for row in rows:
        cells = (
            f"`{row.name}`",
            row.attack.sends,
            row.measured,
            _change(row.median),
            _change(row.p99),
            "; ".join(row.failures) or "none",
            str(row.restarts),
            "; ".join((row.attack.bound, *row.notes)),
            "yes" if row.held else "NO",
        )
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _change(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.1f} → {pair[1]:.1f}"
