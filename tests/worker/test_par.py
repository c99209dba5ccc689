"""`par`: blocks of steps that run concurrently, each as a run of its own, and their parent run."""

from __future__ import annotations

from uuid import UUID

from app.services import runs as services_runs
from app.services.context import AppContext
from tests.support.blocks import WAIT, due, execute_due_jobs, parallel_blocks, paths, started, texts
from tests.support.builders import Sender
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run, jobs_of, rows_of, the_run


def test_blocks_start_together_and_the_run_continues_after_the_last(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[{"log": "a"}, {"log": "b"}], [{"log": "c"}], []]}, {"log": "after"})
    waiting = execute_run(context, acme.account_id, run)
    assert (waiting["status"], waiting["at"], waiting["wake_at"], waiting["blocks_left"]) == (
        "running",
        "steps[0]",
        None,
        2,
    )
    one, two = parallel_blocks(context, acme, run)
    assert execute_run(context, acme.account_id, one)["status"] == "done"
    assert jobs_of(context, run) == [f"{acme.account_id}:{run}:1"]
    assert execute_run(context, acme.account_id, two)["status"] == "done"
    assert jobs_of(context, run)[-1] == f"{acme.account_id}:{run}:2"
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"
    assert texts(context, acme, run) == ["after"]
    assert paths(context, acme, one) == ["steps[0].par[0][0]", "steps[0].par[0][1]"]
    assert paths(context, acme, two) == ["steps[0].par[1][0]"]


def test_a_waiting_block_delays_no_other(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[WAIT, {"log": "late"}], [{"log": "soon"}]]}, {"log": "after"})
    execute_run(context, acme.account_id, run)
    late, soon = parallel_blocks(context, acme, run)
    execute_run(context, acme.account_id, late)
    assert execute_run(context, acme.account_id, soon)["status"] == "done"
    assert the_run(context, acme.account_id, run)["at"] == "steps[0]"
    execute_run(context, acme.account_id, late, job=2)
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"


def test_a_par_of_empty_blocks_ends_at_once(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[], []]}, {"log": "after"})
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    assert parallel_blocks(context, acme, run) == []


def test_blocks_may_have_blocks(context: AppContext, acme: Sender) -> None:
    inner = {"par": [[{"set": {"a": "1"}}], [{"set": {"b": "2"}}]]}
    run = started(
        context, acme, {"par": [[inner, {"log": "{{ vars.a }}{{ vars.b }}"}], [{"log": "x"}]]}, {"log": "end"}
    )
    assert execute_due_jobs(context, acme, run)["status"] == "done"
    outer = parallel_blocks(context, acme, run)[0]
    assert texts(context, acme, outer) == ["12"]
    grandchild = the_run(context, acme.account_id, parallel_blocks(context, acme, outer)[0])
    assert (str(grandchild["root_id"]), str(grandchild["parent_id"])) == (run, outer)
    assert grandchild["match_key"].endswith("/0.0/0.0")


def test_a_par_in_a_repeat_starts_new_blocks_each_round(context: AppContext, acme: Sender) -> None:
    count = {"set": {"n": "vars.n + 1"}}
    body = [{"par": [[{"log": "{{ vars.n }}"}], [{"log": "x"}]]}, count]
    run = started(context, acme, {"set": {"n": "0"}}, {"repeat": body, "until": "vars.n == 3"})
    assert execute_due_jobs(context, acme, run)["status"] == "done"
    blocks = parallel_blocks(context, acme, run)
    assert [texts(context, acme, block) for block in blocks] == [["0"], ["x"], ["1"], ["x"], ["2"], ["x"]]


def test_outputs_and_variables_of_blocks_can_be_read_after_them_and_by_each_other(
    context: AppContext, acme: Sender
) -> None:
    one = [{"id": "say", "log": "hello"}, {"set": {"x": "'one'"}}]
    other = [WAIT, {"log": "{{ vars.x }} {{ steps.say.text }}"}]
    run = started(context, acme, {"par": [one, other]}, {"log": "{{ vars.x }} {{ steps.say.text }}"})
    execute_due_jobs(context, acme, run)
    execute_run(context, acme.account_id, parallel_blocks(context, acme, run)[1], job=2)
    execute_run(context, acme.account_id, run, job=2)
    assert texts(context, acme, parallel_blocks(context, acme, run)[1]) == ["one hello"]
    assert texts(context, acme, run) == ["one hello"]


def test_last_in_a_block_is_not_that_of_another_block(context: AppContext, acme: Sender) -> None:
    log_last = {"log": "{{ last.text }}"}
    blocks = [[log_last, {"log": "mine"}, WAIT, log_last], [{"log": "yours"}]]
    run = started(context, acme, {"log": "before"}, {"par": blocks}, log_last)
    execute_due_jobs(context, acme, run)
    mine = parallel_blocks(context, acme, run)[0]
    execute_run(context, acme.account_id, mine, job=2)
    execute_run(context, acme.account_id, run, job=2)
    assert texts(context, acme, mine) == ["before", "mine", "mine"]
    assert texts(context, acme, run)[-1] == "mine"


def test_each_block_has_its_own_idempotency_keys(context: AppContext, acme: Sender) -> None:
    with an_http_target() as server:
        call = {"http": {"url": server.url}}
        run = started(context, acme, {"par": [[call], [call]]}, call)
        execute_due_jobs(context, acme, run)
    keys = [call.headers["Idempotency-Key"] for call in server.calls]
    assert keys == [*(f"{block}-0" for block in parallel_blocks(context, acme, run)), f"{run}-1"]


# Failures


def test_a_block_that_fails_fails_the_run_when_the_others_have_ended(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        call = {"http": {"url": server.url}}
        run = started(context, acme, {"par": [[call, {"log": "never"}], [WAIT, {"log": "x"}]]}, {"log": "never"})
        execute_run(context, acme.account_id, run)
        failing, waiting = parallel_blocks(context, acme, run)
        assert execute_run(context, acme.account_id, failing)["status"] == "failed"
        execute_run(context, acme.account_id, waiting)
        assert the_run(context, acme.account_id, run)["status"] == "running"
        assert execute_run(context, acme.account_id, waiting, job=2)["status"] == "done"
    after = execute_run(context, acme.account_id, run, job=2)
    assert (after["status"], after["error"]) == ("failed", "steps[0].par[0][0] (http): answered 404")
    assert rows_of(context, "steps", acme.account_id, run)[0]["status"] == "failed"


def test_an_else_in_a_block_prevents_the_run_from_failing(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        call = {"http": {"url": server.url}, "else": []}
        run = started(context, acme, {"par": [[call], [{"log": "x"}]]})
        assert execute_due_jobs(context, acme, run)["status"] == "done"


def test_a_retried_run_continues_in_the_failed_blocks(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404), Answer(404), Answer(200)) as server:
        call = {"http": {"url": server.url}}
        run = started(context, acme, {"par": [[{"par": [[call], [call]]}], [{"log": "x"}]]}, {"log": "after"})
        assert execute_due_jobs(context, acme, run)["status"] == "failed"
        outer = parallel_blocks(context, acme, run)[0]
        assert services_runs.retry_runs(context, acme.account_id, [UUID(run)]) == {UUID(run)}
        assert [the_run(context, acme.account_id, one)["blocks_left"] for one in (run, outer)] == [1, 2]
        assert len(due(context, acme)) == 2
        assert execute_due_jobs(context, acme, run)["status"] == "done"
    assert len(server.calls) == 4
    assert len({call.headers["Idempotency-Key"] for call in server.calls}) == 2


def test_only_a_run_is_retried_and_not_one_of_its_blocks(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        run = started(context, acme, {"par": [[{"http": {"url": server.url}}], [WAIT]]})
        execute_run(context, acme.account_id, run)
        failing = parallel_blocks(context, acme, run)[0]
        execute_run(context, acme.account_id, failing)
    assert services_runs.retry_runs(context, acme.account_id, [UUID(failing)]) == set()
    assert the_run(context, acme.account_id, failing)["status"] == "failed"


# Join
