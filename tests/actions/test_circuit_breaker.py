"""When the circuit of a host or a target opens, and which calls are deferred meanwhile."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from app.actions.circuit import FAILURE_THRESHOLD, FIRST_PAUSE, MAX_CIRCUITS, MAX_PAUSE, Deferred
from tests.support.action_contexts import an_action_context, in_a_session, perform
from tests.support.circuit_scenarios import HERE, THERE, Scenario, run_scenario
from tests.support.http_target import Answer, an_http_target

# Circuits


def test_several_failures_in_a_row_open_the_circuit() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail()
        deferred = await it.deferred()
        assert deferred.error_class == "circuit_open"
        assert f"{HERE} failed {FAILURE_THRESHOLD} times in a row" in str(deferred)
        assert 0 < deferred.seconds < FIRST_PAUSE * 2.5

    run_scenario(scenario)


def test_an_answer_in_between_keeps_the_circuit_closed() -> None:
    async def scenario(it: Scenario) -> None:
        for _ in range(3):
            await it.fail(FAILURE_THRESHOLD - 1)
            await it.call(True)

    run_scenario(scenario)


def test_a_call_without_a_result_counts_neither_way() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail(FAILURE_THRESHOLD - 1)
        await it.call(None)
        await it.call(False)
        assert (await it.deferred()).error_class == "circuit_open"

    run_scenario(scenario)


def test_other_hosts_and_accounts_are_not_affected() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail()
        await it.call(True, host=THERE)
        await it.call(True, account=2)

    run_scenario(scenario)


def test_after_the_pause_one_probe_is_let_through() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail()
        it.clock.now += FIRST_PAUSE * 1.3
        end, probe = it.hold(1)
        await asyncio.sleep(0)
        assert (await it.deferred()).error_class == "circuit_open"
        end.set()
        await asyncio.gather(*probe)
        await it.call(True)

    run_scenario(scenario)


def test_each_failed_probe_doubles_the_pause_up_to_a_maximum() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail()
        pauses = []
        for _ in range(10):
            began = it.clock.now
            while True:
                it.clock.now += 1.0
                try:
                    await it.call(False, seconds=0.0)
                    break
                except Deferred:
                    continue
            pauses.append(it.clock.now - began)
        assert pauses[0] <= FIRST_PAUSE * 1.2 + 1
        assert all(2 * 0.6 < later / earlier < 2 * 1.6 for earlier, later in pairwise(pauses[:6]))
        assert max(pauses) <= MAX_PAUSE * 1.2 + 1

    run_scenario(scenario)


def test_calls_that_were_under_way_when_the_circuit_opened_do_not_extend_the_pause() -> None:
    async def scenario(it: Scenario) -> None:
        end = asyncio.Event()

        async def hang() -> None:
            async with it.circuit_breakers.permit(1, HERE) as permit:
                await end.wait()
                permit.succeeded = False

        hanging = [asyncio.create_task(hang()) for _ in range(10)]
        await asyncio.sleep(0)
        end.set()
        await asyncio.gather(*hanging)
        it.clock.now += FIRST_PAUSE * 1.3
        await it.call(True)

    run_scenario(scenario)


def test_deferred_calls_do_not_come_back_together() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail()
        seconds = {round((await it.deferred()).seconds, 3) for _ in range(100)}
        assert len(seconds) > 90
        assert max(seconds) - min(seconds) > FIRST_PAUSE / 2

    run_scenario(scenario)


# Targets


def test_bad_answers_are_counted_by_target() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail(target="POST /bad")
        deferred = await it.deferred(target="POST /bad")
        assert deferred.held_by == "POST /bad"
        assert f"POST /bad failed {FAILURE_THRESHOLD} times in a row" in str(deferred)
        await it.call(True, target="POST /good")
        assert (await it.deferred(target="POST /bad")).error_class == "circuit_open"

    run_scenario(scenario)


def test_bad_answers_of_several_targets_open_no_circuit_of_the_host() -> None:
    async def scenario(it: Scenario) -> None:
        for number in range(FAILURE_THRESHOLD * 3):
            await it.call(False, target=f"POST /{number}", seconds=0.0)
        await it.call(True, target="POST /good")

    run_scenario(scenario)


def test_connection_failures_are_counted_by_host() -> None:
    async def scenario(it: Scenario) -> None:
        for number in range(FAILURE_THRESHOLD):
            await it.call(False, target=f"POST /{number}", connected=False)
        deferred = await it.deferred(target="POST /good")
        assert deferred.held_by == HERE
        await it.call(True, host=THERE, target="POST /good")

    run_scenario(scenario)


def test_a_bad_answer_proves_that_the_host_can_be_reached() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail(FAILURE_THRESHOLD - 1, target="a", connected=False)
        await it.call(False, target="b")
        await it.fail(FAILURE_THRESHOLD - 1, target="a", connected=False)
        await it.call(True, target="a")

    run_scenario(scenario)


def test_the_probe_of_a_host_is_of_the_target_that_has_waited_longest() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail(target="bad", connected=False)
        first = await it.deferred(target="patient")
        others = [await it.deferred(target=f"late {number % 5}") for number in range(50)]
        assert first.seconds <= min(other.seconds for other in others)
        it.clock.now += first.seconds
        for number in range(5):
            await it.deferred(target=f"late {number}")
        await it.deferred(target="bad")
        await it.call(False, target="patient", connected=False)
        # In the next pause another one has waited longest.
        it.clock.now += FIRST_PAUSE * 2.5
        await it.call(False, target="late 0", connected=False)

    run_scenario(scenario)


def test_when_the_target_that_has_waited_longest_does_not_come_another_one_may() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail(target="bad", connected=False)
        await it.deferred(target="gone")
        it.clock.now += FIRST_PAUSE * 1.3 + 2.0
        await it.call(True, target="other")
        await it.call(True, target="bad")

    run_scenario(scenario)


def test_an_account_has_a_bounded_number_of_circuits() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail(target="open")
        for number in range(MAX_CIRCUITS * 3):
            await it.call(False, target=f"POST /{number}", seconds=0.0)
        assert (await it.deferred(target="open")).error_class == "circuit_open"
        assert len(it.circuit_breakers._accounts[1].circuits._circuits) == MAX_CIRCUITS

    run_scenario(scenario)


def test_an_account_without_failures_keeps_no_state() -> None:
    async def scenario(it: Scenario) -> None:
        await it.call(False, target="a")
        await it.call(True, target="a")
        assert it.circuit_breakers._accounts == {}

    run_scenario(scenario)


def test_openings_and_closings_are_reported_once() -> None:
    async def scenario(it: Scenario) -> None:
        await it.fail(FAILURE_THRESHOLD - 1, target="a")
        assert it.circuit_breakers.take_changes() == []
        await it.call(False, target="a")
        it.clock.now += 2.0
        (change,) = it.circuit_breakers.take_changes()
        assert (change.account_id, change.target, change.failures, change.open_for) == (1, "a", FAILURE_THRESHOLD, 2.0)
        assert FIRST_PAUSE * 0.8 - 2 <= change.retry_in <= FIRST_PAUSE * 1.2 - 2
        assert it.circuit_breakers.take_changes() == []
        it.clock.now += FIRST_PAUSE * 1.3
        await it.call(False, target="a")
        (change,) = it.circuit_breakers.take_changes()
        assert (change.failures, round(change.open_for, 2)) == (FAILURE_THRESHOLD + 1, 2.0 + FIRST_PAUSE * 1.3 + 0.01)
        it.clock.now += FIRST_PAUSE * 2.5
        await it.call(True, target="a")
        assert [(change.target, change.failures) for change in it.circuit_breakers.take_changes()] == [("a", 0)]
        assert it.circuit_breakers._accounts == {}

    run_scenario(scenario)


# In an action


def test_a_deferred_step_makes_no_attempt() -> None:
    async def scenario(session: object) -> None:
        from app import actions

        context = an_action_context(session)  # type: ignore[arg-type]
        step = {"http": {"url": server.url}}
        for _ in range(FAILURE_THRESHOLD):
            assert (await actions.perform(step, context)).kind == "retry"
        outcome = await actions.perform(step, context)
        assert (outcome.kind, outcome.error_class) == ("later", "circuit_open")
        assert outcome.retry_after is not None and outcome.retry_after > 0

    with an_http_target(Answer(503)) as server:
        in_a_session(scenario)
    assert len(server.calls) == FAILURE_THRESHOLD


@pytest.mark.parametrize("status", [200, 302, 404, 410, 429])
def test_any_answer_below_500_counts_as_success(status: int) -> None:
    async def scenario(session: object) -> None:
        from app import actions

        context = an_action_context(session)  # type: ignore[arg-type]
        for _ in range(FAILURE_THRESHOLD * 2):
            assert (await actions.perform({"http": {"url": server.url}}, context)).kind != "later"

    with an_http_target(Answer(status)) as server:
        in_a_session(scenario)


def test_a_refused_address_does_not_open_the_circuit() -> None:
    for _ in range(FAILURE_THRESHOLD * 2):
        assert perform({"http": {"url": "http://10.0.0.1/"}}).error_class == "refused_target"


def test_a_disabled_target_is_not_called() -> None:
    with an_http_target() as server:
        target = server.url + "/hook"
        step = {"http": {"url": target + "?to={{ phone | url_encode }}"}}
        outcome = perform(step, disabled={target: "answered 410: the target is gone for good"})
        assert (outcome.kind, outcome.error_class) == ("failed", "target_disabled")
        assert "answered 410" in str(outcome.error)
        assert perform({"http": {"url": server.url + "/other"}}, disabled={target: "x"}).kind == "done"
    assert [call.path for call in server.calls] == ["/other"]


def test_a_410_names_the_target_that_is_gone() -> None:
    with an_http_target(Answer(410)) as server:
        outcome = perform({"http": {"url": server.url + "/hook?x=1"}})
    assert (outcome.kind, outcome.gone) == ("failed", server.url + "/hook")
