"""Attacks by one account on the others: `make attack`. Each starts the real product on 127.0.0.1 and measures how long a victim
waits, first without and then with the attack. Bounded: an attack lasts for DURATION seconds (default 15).

To add an attack, add one module `bench/attack/attacks/NAME.py`. It has one function, and describes it:

    @contextmanager
    def many_keys(stage: Stage) -> Iterator[None]:
        prepare(stage.context, stage.attacker.account)              # before the victim is measured under attack
        requests = stage.attacker.request("/api/v1/cvf-events", {"event": "x", "distinct_id": "1"})
        with stage.flood(lambda number: requests, rate=400):
            yield                                                   # the victim is measured here
        # What has to be true afterwards: stage.fail("…") when it is not, stage.note("…") for figures.

    ATTACK = Attack(many_keys, sends="400 requests a second with …", bound="100 look-ups a second and process")

`Attack` in stage.py lists the options: `runs=True` starts a worker and measures the victim's runs, too; `max_added_ms` and
`max_restarts` are the bounds that a row has to hold. Attacks talk to 127.0.0.1 only, and end when their `with` block ends.
"""
