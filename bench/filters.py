"""CPU of matching: 50 workflows with a filter each on an order of 7 kB, and an event that uses up its budget of work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from app.workflows.expressions.cel_variables import CelVariables
from app.workflows.expressions.work_budget import EVENT_UNITS, UNITS_PER_MILLISECOND
from app.workflows.matching.rule import build_variables, compile_rule
from app.workflows.matching.rules import Rules
from bench.measuring import median
from bench.rows import Row, limited

TRIES = 200
MAX_MICROSECONDS = 2_000
# Whatever an event contains, and whatever its filters are.
MAX_BUDGET_MILLISECONDS = 2 * EVENT_UNITS / UNITS_PER_MILLISECOND
FILTERS = (
    "data.total > {}",
    "data.currency == 'INR' && data.total > {}",
    "data.shipping.city == 'Pune' && data.customer.orders < {}",
    "has(data.coupon) && data.total > {}",
    "data.customer.email.endsWith('@example.com') && data.total < {}",
)
ITEM = {"name": "A thing that somebody has ordered", "currency": "INR", "quantity": 1, "tags": ["new", "sale"]}
ADDRESS = {"line1": "12 Some Street", "city": "Pune", "zip": "411001", "country": "IN"}
ORDER = {
    "order_id": "98765",
    "total": 4711.5,
    "currency": "INR",
    "items": [{**ITEM, "sku": f"SKU-{number:05}", "price": number + 0.5} for number in range(50)],
    "shipping": ADDRESS,
    "billing": ADDRESS,
    "coupon": None,
    "customer": {"id": 1, "email": "a@example.com", "orders": 7},
}


def filters() -> list[Row]:
    """CPU per event of all its filters, and of an event with as much work as possible."""
    plain = _rules([FILTERS[number % len(FILTERS)].format(number) for number in range(50)])
    loops = _rules([f"data.items.exists(item, item.price > {1_000 + number})" for number in range(2_000)])
    microseconds, _ = _measure(lambda: _decide(plain))
    size = len(json.dumps(ORDER))
    spent, left = _measure(lambda: _decide(loops))
    return [
        limited(
            "filters", microseconds, MAX_MICROSECONDS, unit=f"µs of CPU for 50 filters on an order of {size:,} bytes"
        ),
        limited(
            "filters-budget",
            spent / 1_000,
            MAX_BUDGET_MILLISECONDS,
            unit=f"ms of CPU for an event that has used {EVENT_UNITS - left:,} of {EVENT_UNITS:,} units of work",
        ),
    ]


def _rules(texts: list[str]) -> Rules:
    return Rules(
        compile_rule(UUID(int=number), f"w{number}", 1, {"on": {"event": "order", "where": text}, "steps": []})
        for number, text in enumerate(texts)
    )


def _decide(rules: Rules) -> CelVariables:
    variables = build_variables("order", "1", None, ORDER, datetime(2026, 1, 1, tzinfo=UTC))
    for rule in rules.find_candidates(variables).stateless:
        rule.decide(variables)
    return variables


def _measure(decide: Callable[[], CelVariables]) -> tuple[float, int]:
    """The median of the microseconds of CPU, and the units that were left."""
    taken, left = [], 0
    for _ in range(TRIES):
        began = time.thread_time()
        left = decide().budget.left
        taken.append((time.thread_time() - began) * 1e6)
    return median(taken), left
