"""Deliveries whose mapping takes as much work as one may: each is within its limits, all take several cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.attack.stage import Attack, Stage, http_request
from bench.source import save_source

RATE = 50
BODY = {"l": list(range(2_000))}
DOCUMENT = {
    "name": "costly",
    "verify": "none",
    "map": {
        "event": "'costly'",
        "distinct_id": "'1'",
        "data": {
            **{f"cel{number}": f"body.l.exists(x, x == -{number})" for number in range(6)},
            "liquid": "{% for x in body.l %}{% if x > 1990 %}{{ x | plus: 1 | times: 2 }}{% endif %}{% endfor %}",
        },
    },
}


@contextmanager
def costly_mappings(stage: Stage) -> Iterator[None]:
    """Post deliveries; count those that were mapped at once, and those that are left to the worker."""
    account = stage.attacker.account
    token = save_source(stage.context, account, DOCUMENT)

    def request(number: int) -> bytes:
        return http_request(f"/hooks/{token}", BODY, headers={"Content-Type": "application/json"})

    with stage.flood(request, rate=RATE) as answers:
        yield
    if not answers["200"]:
        stage.fail("no delivery of the attacker was stored")
    count = "SELECT count(*) FROM deliveries WHERE account_id = %s AND result = %s"
    mapped, postponed = (stage.base.query(count, account, result) for result in ("accepted", "unmapped"))
    stage.note(f"{mapped:,} deliveries mapped, {postponed:,} still to be mapped by a worker")


ATTACK = Attack(
    costly_mappings,
    sends=f"{RATE} deliveries a second whose mapping takes tens of milliseconds",
    bound="a quarter of a core for the mapping and matching of one account in each process; the rest is mapped by the worker",
    runs=True,
)
