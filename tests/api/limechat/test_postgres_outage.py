"""While Postgres is unavailable: 503 with Retry-After, never a 2xx; afterwards the server continues by itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import count
from pathlib import Path

import psutil
import psycopg2
import pytest

from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from app.core.models import EVENTS_READ
from app.services import api_keys, workflows
from app.services.context import AppContext
from tests.api.conftest import settings_of
from tests.support.builders import Sender, a_sender, a_workflow, an_event
from tests.support.server import Answer, Server, running_server

RECOVERY = 15.0


@pytest.fixture(scope="module")
def patient(own_context: AppContext) -> Iterator[Server]:
    """A web process that waits for Postgres no longer than a test wants to."""
    limits = {"STATEMENT_TIMEOUT": "1.5", "CONNECT_TIMEOUT": "1", "DATABASE_POOL": "1"}
    with running_server(**settings_of(own_context), **limits) as running:
        yield running


@pytest.fixture
def sender(own_postgres: EmbeddedPostgres, own_context: AppContext, patient: Server) -> Sender:
    """A sender whom the web process knows."""
    known = a_sender(own_context, patient)
    assert known.post(an_event()).status_code == 200
    return known


@contextmanager
def session(postgres: EmbeddedPostgres) -> Iterator[psycopg2.extensions.cursor]:
    """Somebody else at work in the same database, in one transaction that is rolled back."""
    with closing(psycopg2.connect(postgres.url)) as connection, connection.cursor() as cursor:
        yield cursor


def query(postgres: EmbeddedPostgres, question: str, *values: object) -> list[tuple[object, ...]]:
    with session(postgres) as cursor:
        cursor.execute(question, values)
        return cursor.fetchall()


def assert_try_again(answer: Answer) -> None:
    """The 503 that tells a sender to come back."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["X-Request-Id"]
    assert answer.json["status"] == 503


def until(status: int, post: Callable[[], Answer]) -> Answer:
    """Post again until it is answered with this status."""
    deadline = time.monotonic() + RECOVERY
    while (answer := post()).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    return answer


@contextmanager
def stopped(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Postgres is not there."""
    postgres.stop()
    try:
        yield
    finally:
        postgres.start()


@contextmanager
def hanging(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Postgres is there, and none of its processes does anything."""
    folder = Path(str(query(postgres, "SHOW data_directory")[0][0]))
    postmaster = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
    postmaster.suspend()
    processes = postmaster.children()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in (postmaster, *processes):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def test_without_postgres_senders_get_503_until_it_is_back(
    own_postgres: EmbeddedPostgres, sender: Sender, patient: Server
) -> None:
    pids = patient.processes()
    refusals = 'signalbox_refusals_total{status="503"}'
    before = patient.metric(refusals)
    with stopped(own_postgres):
        for _ in range(10):
            assert_try_again(sender.post(an_event()))
        assert_try_again(patient.open("/health"))
        assert patient.metric(refusals) >= before + 11
    until(200, lambda: sender.post(an_event()))
    assert patient.open("/health").status_code == 200
    assert patient.processes() == pids
    assert "database unavailable" in patient.output()


def test_without_postgres_an_unknown_key_gets_503_instead_of_401(
    own_postgres: EmbeddedPostgres, own_context: AppContext, patient: Server
) -> None:
    new = a_sender(own_context, patient)
    with stopped(own_postgres):
        assert_try_again(new.post(an_event()))
    assert until(200, lambda: new.post(an_event())).json["duplicate"] is False


def test_without_postgres_a_bad_event_of_a_known_key_is_still_called_bad(
    own_postgres: EmbeddedPostgres, sender: Sender
) -> None:
    with stopped(own_postgres):
        assert sender.post(b"{").status_code == 400
    until(200, lambda: sender.post(an_event()))


def test_each_acknowledged_event_is_stored_once(
    own_postgres: EmbeddedPostgres, own_context: AppContext, sender: Sender
) -> None:
    workflows.apply_workflow(own_context, sender.account_id, a_workflow(on="streamed"))
    done, acknowledged, refused = threading.Event(), [], []

    def stream(name: int) -> None:
        for number in count():
            if done.is_set():
                return
            key = f"{name}/{number}"
            while (answer := sender.post(an_event(event="streamed"), Idempotency_Key=key)).status_code == 503:
                refused.append(key)
                time.sleep(0.05)
            assert answer.status_code == 200
            acknowledged.append((key, answer.json["id"]))

    with ThreadPoolExecutor(4) as threads:
        streams = [threads.submit(stream, name) for name in range(4)]
        try:
            for _ in range(2):
                time.sleep(0.5)
                with stopped(own_postgres):
                    time.sleep(0.5)
            time.sleep(0.5)
        finally:
            done.set()
        for one in streams:
            one.result()
    question = "SELECT idempotency_key, id::text FROM events WHERE account_id = %s AND event = 'streamed'"
    stored = query(own_postgres, question, sender.account_id)
    assert sorted(stored) == sorted(acknowledged)
    assert refused
    runs = "SELECT count(*), count(DISTINCT event_id) FROM runs WHERE account_id = %s"
    assert query(own_postgres, runs, sender.account_id) == [(len(stored), len(stored))]


def test_connections_that_were_cut_are_replaced_without_the_senders_noticing(
    own_postgres: EmbeddedPostgres, sender: Sender
) -> None:
    question = "SELECT count(*) FROM events WHERE account_id = %s"
    before = query(own_postgres, question, sender.account_id)[0][0]
    for _ in range(5):
        cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'signalbox'"
        query(own_postgres, cut)
        assert sender.post(an_event()).status_code == 200
    assert query(own_postgres, question, sender.account_id) == [(before + 5,)]


def test_an_event_that_waits_too_long_is_not_stored_and_can_be_sent_again(
    own_postgres: EmbeddedPostgres, sender: Sender
) -> None:
    with session(own_postgres) as other:
        other.execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        assert_try_again(sender.post(an_event(event="late"), Idempotency_Key="late"))
    again = until(200, lambda: sender.post(an_event(event="late"), Idempotency_Key="late"))
    assert again.json["duplicate"] is False
    question = "SELECT id::text FROM events WHERE account_id = %s AND event = 'late'"
    assert query(own_postgres, question, sender.account_id) == [(again.json["id"],)]


def test_a_key_in_an_open_transaction_is_awaited_up_to_the_statement_timeout(
    own_postgres: EmbeddedPostgres, sender: Sender
) -> None:
    with session(own_postgres) as other:
        other.execute(
            "INSERT INTO idempotency_keys (account_id, key, digest, event_id, received_at) "
            "VALUES (%s, 'slow', '', gen_random_uuid(), now())",
            (sender.account_id,),
        )
        assert_try_again(sender.post(an_event(), Idempotency_Key="slow"))
    assert until(200, lambda: sender.post(an_event(), Idempotency_Key="slow")).json["duplicate"] is False


def test_an_exhausted_pool_gives_503(own_postgres: EmbeddedPostgres, own_context: AppContext, patient: Server) -> None:
    """The pool has one connection; the first query holds it until its statement is timed out."""
    # Of equal messages one a second is logged: a round may be hidden by an earlier failure.
    for _ in range(5):
        strangers = [a_sender(own_context, patient) for _ in range(4)]
        with ThreadPoolExecutor(len(strangers)) as threads, session(own_postgres) as other:
            other.execute("LOCK TABLE keys IN ACCESS EXCLUSIVE MODE")
            answers = list(threads.map(lambda stranger: stranger.post(an_event()), strangers))
        for answer in answers:
            assert_try_again(answer)
        assert [until(200, lambda one=one: one.post(an_event())).status_code for one in strangers] == [200] * 4
        if "all connections to Postgres are in use" in patient.output():
            return
        time.sleep(1)
    raise AssertionError(patient.output())


def test_a_postgres_that_hangs_gives_503_in_time_and_delays_nothing_else(
    own_postgres: EmbeddedPostgres, own_context: AppContext, patient: Server
) -> None:
    """Its processes are stopped: connections are open, and nothing answers."""
    sender = a_sender(own_context, patient)
    assert sender.post(an_event()).status_code == 200
    with ThreadPoolExecutor(6) as threads, hanging(own_postgres):
        posted = [threads.submit(sender.post, an_event()) for _ in range(5)]
        assert patient.exchange(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").status_code == 404
        assert not any(one.done() for one in posted)
        for one in posted:
            assert_try_again(one.result())
    until(200, lambda: sender.post(an_event()))


def test_a_postgres_without_a_free_connection_gives_503(
    own_postgres: EmbeddedPostgres, own_context: AppContext
) -> None:
    newcomer = a_sender(own_context, None)  # type: ignore[arg-type]
    own_context.database.close()
    with few_connections(own_postgres, 10), running_server(**settings_of(own_context)) as server:
        newcomer = Sender(newcomer.account_id, newcomer.slug, newcomer.token, server)
        with ExitStack() as occupied:
            while True:
                try:
                    occupied.enter_context(closing(psycopg2.connect(own_postgres.url)))
                except psycopg2.OperationalError as full:
                    assert "too many clients" in str(full) or "remaining connection slots" in str(full)
                    break
            assert_try_again(newcomer.post(an_event()))
        until(200, lambda: newcomer.post(an_event()))


@contextmanager
def few_connections(postgres: EmbeddedPostgres, limit: int) -> Iterator[None]:
    """Postgres with `limit` connections, none of them reserved."""
    change(postgres, f"ALTER SYSTEM SET max_connections = {limit}")
    change(postgres, "ALTER SYSTEM SET superuser_reserved_connections = 0")
    with stopped(postgres):
        pass
    try:
        yield
    finally:
        change(postgres, "ALTER SYSTEM RESET ALL")
        with stopped(postgres):
            pass


def change(postgres: EmbeddedPostgres, statement: str) -> None:
    with closing(psycopg2.connect(postgres.url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


def test_gunicorn_starts_without_postgres_and_serves_once_it_is_available(
    own_postgres: EmbeddedPostgres, own_context: AppContext
) -> None:
    newcomer = a_sender(own_context, None)  # type: ignore[arg-type]
    with ExitStack() as stack:
        with stopped(own_postgres):
            server = stack.enter_context(running_server(healthy=False, **settings_of(own_context)))
            newcomer = Sender(newcomer.account_id, newcomer.slug, newcomer.token, server)
            assert_try_again(newcomer.post(an_event()))
        assert json.loads(until(200, lambda: newcomer.post(an_event())).data)["duplicate"] is False


def test_a_stream_without_postgres_is_empty_with_a_reconnection_time(
    own_postgres: EmbeddedPostgres, own_context: AppContext, patient: Server, sender: Sender
) -> None:
    token = api_keys.create_key(own_context, sender.account_id, "reader", (EVENTS_READ,))
    bearer = {"Authorization": f"Bearer {token}"}
    response = until(200, lambda: patient.open(f"/tenants/{sender.slug}/ticket", method="POST", headers=bearer))
    stream = f"/tenants/{sender.slug}/stream?ticket={response.json['ticket']}"
    assert patient.open(stream).data == b"retry: 1000\n\n"
    with stopped(own_postgres):
        answer = patient.open(stream)
        assert (answer.status_code, answer.data) == (200, b"retry: 5000\n\n")
        refused = patient.open(f"/tenants/{sender.slug}/ticket", method="POST", headers=bearer)
        assert (refused.status_code, refused.json) == (403, {"error": "Timeout ocurred"})
    deadline = time.monotonic() + RECOVERY
    while patient.open(stream).data != b"retry: 1000\n\n":
        assert time.monotonic() < deadline
        time.sleep(0.1)
