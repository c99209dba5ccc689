"""Templates whose work the sender of an event chooses: ranges, loops and conversions of numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from app.actions.templates.filters import MAX_RANGE
from app.actions.templates.template_budget import MAX_CPU_SECONDS, MAX_ROUNDS, MAX_WORK
from app.services import workflows
from bench.attack.stage import Attack, Stage

SENT = 20
# The first ones end at once with their limit, the others use as much as they may.
TEXTS = (
    "{{ (1..data.n) | join: ',' }}",
    "{% for i in (1..data.n) reversed %}{% endfor %}",
    "{{ (1..data.huge) | size }}",
    "{% for i in (1..9000) %}{% if data.list == latest.list %}{% endif %}{% endfor %}",
    "{% for i in (1..9000) %}{% assign a = data.text | upcase | strip_html | size %}{% endfor %}",
    {"mustache": "{{#data.list}}{{#data.list}}{{data.text}}{{/data.list}}{{/data.list}}"},
)


@contextmanager
def liquid_ranges(stage: Stage) -> Iterator[None]:
    """Every event starts a run whose text meets a limit."""
    for number, text in enumerate(TEXTS):
        document = {"name": f"text-{number}", "on": f"attack-{number}", "steps": [{"log": text}]}
        workflows.apply_workflow(stage.context, stage.attacker.account, json.dumps(document))
    data = {"n": 10**8, "list": list(range(3_000)), "text": "<a>" * 5_000}

    def request(number: int) -> bytes:
        event = json.dumps({"event": f"attack-{number % len(TEXTS)}", "distinct_id": "1", "data": data})
        return stage.attacker.request("/api/v1/cvf-events", (event[:-2] + ', "huge": 1e131071}}').encode())

    with stage.flood(request, rate=SENT):
        yield


ATTACK = Attack(
    liquid_ranges,
    sends=f"{SENT} events a second, each starts a run whose text has the range `(1..data.n)` with n = 10⁸ or 10¹³¹⁰⁷¹, or loops "
    "over its data",
    bound=f"ranges of {MAX_RANGE:,} members, {MAX_ROUNDS:,} rounds, {MAX_WORK:,} units of work, {MAX_CPU_SECONDS} s of CPU; one "
    "rendering of an account at a time, and then a pause",
    runs=True,
    # The attacker's texts use up to a half of one processor.
    max_added_ms=150,
)
