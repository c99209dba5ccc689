"""One `advance` of the matcher for every pattern of the conformance cases, after many events of one subject."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from app.workflows.matching.rule import NO_MATCH_STATE, EventView, MatchState, Rule, build_variables, compile_rule
from bench.measuring import median
from bench.rows import Row, limited

ROOT = Path(__file__).resolve().parents[1]
BEFORE = 20_000
MEASURED = 5_000
MAX_MICROSECONDS = 100


def advance() -> list[Row]:
    """The slowest median over all patterns, JSON of the progress excluded."""
    cases = json.loads((ROOT / "tests" / "workflows" / "matching" / "pattern_cases.json").read_text())
    slowest, name = max((_median(case), case["name"]) for case in cases)
    return [
        limited(
            "advance", slowest, MAX_MICROSECONDS, unit=f"µs in the median, slowest of {len(cases)} patterns: {name}"
        )
    ]


def _median(case: dict[str, Any]) -> float:
    rule = compile_rule(UUID(int=1), "bench", 1, {"on": case["pattern"], "steps": []})
    rng, timestamp = Random(1), datetime(2026, 1, 1, tzinfo=UTC)
    names = sorted({event[0] for event in case["events"]})
    data = [event[2] if len(event) > 2 else {} for event in case["events"]]
    state, taken = NO_MATCH_STATE, []
    for number in range(BEFORE + MEASURED):
        timestamp += timedelta(seconds=rng.choice([0, 1, 60, 600]))
        event = _view_event(number, rng.choice(names), timestamp, rng.choice(data))
        began = time.perf_counter()
        state = _advance(rule, state, event)
        if number >= BEFORE:
            taken.append((time.perf_counter() - began) * 1e6)
    return median(taken)


def _advance(rule: Rule, state: MatchState, event: EventView) -> MatchState:
    return rule.advance(state, event).state


def _view_event(number: int, name: str, timestamp: datetime, data: dict[str, Any]) -> EventView:
    return EventView(str(UUID(int=number)), name, timestamp, build_variables(name, "1", None, data, timestamp))
