"""Keys and accounts over time: a change applies within 5 seconds on every web process, without
a query per event."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
from flask.testing import FlaskClient

from app import create_app
from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from app.core import config
from app.core.api_keys import digest_of, make_key, prefix_of
from app.core.models import EVENTS_WRITE, PLANS, Key
from app.db import api_keys as db_api_keys
from app.ingest.account_cache import AccountCache
from app.services import accounts, api_keys, workflows
from app.services.context import AppContext
from tests.api.conftest import Rows, settings_of
from tests.support.builders import EVENTS_PATH, Sender, a_sender, a_workflow, an_event
from tests.support.clocks import ClockAhead
from tests.support.server import Answer, Server, running_server
from tests.support.sources import a_source, an_order

PROMISED = 5.0
GOOD, BAD = an_event(), {"event": ""}
Connections = list[http.client.HTTPConnection]
Change = Callable[[AppContext, Sender], object]


@pytest.fixture(scope="module")
def each(two_processes: Server) -> Iterator[Connections]:
    """One connection to each of the two web processes."""
    with two_processes.connected_to_each() as connections:
        yield connections


def post(server: Server, connection: http.client.HTTPConnection, sender: Sender, body: object) -> Answer:
    headers = {"Content-Type": "application/json", **sender.headers()}
    data = json.dumps(body).encode()
    return server.request_on(connection, EVENTS_PATH, method="POST", data=data, headers=headers)


def seconds_until(status: int, request: Callable[[], Answer]) -> float:
    """How long it takes until this is the answer's status; gives up long after what is promised."""
    begun = time.monotonic()
    while request().status_code != status and time.monotonic() < begun + 3 * PROMISED:
        time.sleep(0.1)
    return time.monotonic() - begun


def revoke(context: AppContext, sender: Sender) -> None:
    api_keys.revoke_key(context, sender.token[3:11])


def disable(context: AppContext, sender: Sender) -> None:
    accounts.switch_account(context, sender.account_id, on=False)


def enable(context: AppContext, sender: Sender) -> None:
    accounts.switch_account(context, sender.account_id, on=True)


# (what happens, the status of a good event from then on)
ENDS = [(revoke, 401), (disable, 403)]


@pytest.mark.parametrize(("happens", "status"), ENDS)
def test_a_good_event_is_refused_at_once_on_every_process(
    context: AppContext, two_processes: Server, each: Connections, happens: Change, status: int
) -> None:
    sender = a_sender(context, two_processes)
    assert [post(two_processes, connection, sender, GOOD).status_code for connection in each] == [200, 200]
    happens(context, sender)
    assert [post(two_processes, connection, sender, GOOD).status_code for connection in each] == [status, status]


@pytest.mark.parametrize(("happens", "status"), ENDS)
def test_a_refusal_changes_to_that_of_the_key_or_account_within_5_seconds_on_every_process(
    context: AppContext, two_processes: Server, each: Connections, happens: Change, status: int
) -> None:
    sender = a_sender(context, two_processes)
    assert [post(two_processes, connection, sender, BAD).status_code for connection in each] == [422, 422]
    happens(context, sender)
    for connection in each:
        assert seconds_until(status, lambda: post(two_processes, connection, sender, BAD)) < PROMISED  # noqa: B023


def test_a_revoked_key_above_its_rate_gets_401_within_5_seconds(context: AppContext, server: Server) -> None:
    sender = a_sender(context, server, plan="trial")
    accounts.change_plan(context, sender.account_id, PLANS["trial"], 1)
    while sender.post(BAD).status_code != 429:
        pass
    revoke(context, sender)
    begun, answers = time.monotonic(), []
    while time.monotonic() < begun + PROMISED and 401 not in answers:
        answers.append(sender.post(BAD).status_code)
    assert answers[-1] == 401


@pytest.fixture(scope="module")
def idle(context: AppContext, server: Server) -> dict[tuple[Change, str], Sender]:
    """Senders that were allowed, by what happened to them while the web process had no requests."""
    senders = {(happens, event): a_sender(context, server) for happens, _ in ENDS for event in ("good", "bad")}
    for (happens, _), sender in senders.items():
        assert sender.post(GOOD).status_code == 200
        happens(context, sender)
    time.sleep(2.5)
    return senders


@pytest.mark.parametrize(("happens", "status"), ENDS)
@pytest.mark.parametrize(("event", "body"), [("good", GOOD), ("bad", BAD)])
def test_a_process_that_was_idle_refuses_at_once(
    idle: dict[tuple[Change, str], Sender], happens: Change, status: int, event: str, body: dict[str, str]
) -> None:
    assert idle[happens, event].post(body).status_code == status


def test_a_revoked_key_is_refused_while_another_one_works(context: AppContext, server: Server) -> None:
    lost = a_sender(context, server)
    kept = Sender(
        lost.account_id, lost.slug, api_keys.create_key(context, lost.account_id, "", (EVENTS_WRITE,)), server
    )
    assert (lost.post(GOOD).status_code, kept.post(GOOD).status_code) == (200, 200)
    revoke(context, lost)
    assert [sender.post(GOOD).status_code for sender in (lost, kept, lost, kept)] == [401, 200, 401, 200]


def test_a_new_key_of_a_known_account_works_at_once_on_every_process(
    context: AppContext, two_processes: Server, each: Connections
) -> None:
    sender = a_sender(context, two_processes)
    for connection in each:
        post(two_processes, connection, sender, GOOD)
    token = api_keys.create_key(context, sender.account_id, "new", (EVENTS_WRITE,))
    newer = Sender(sender.account_id, sender.slug, token, two_processes)
    assert [post(two_processes, connection, newer, GOOD).status_code for connection in each] == [200, 200]


def test_an_account_that_is_enabled_again_works_within_5_seconds_on_every_process(
    context: AppContext, two_processes: Server, each: Connections
) -> None:
    sender = a_sender(context, two_processes)
    disable(context, sender)
    assert [post(two_processes, connection, sender, GOOD).status_code for connection in each] == [403, 403]
    enable(context, sender)
    for connection in each:
        assert seconds_until(200, lambda: post(two_processes, connection, sender, GOOD)) < PROMISED  # noqa: B023


def test_a_changed_plan_counts_within_5_seconds_on_every_process(
    context: AppContext, two_processes: Server, each: Connections
) -> None:
    sender = a_sender(context, two_processes, plan="trial")
    limits = [post(two_processes, connection, sender, BAD).headers["RateLimit-Limit"] for connection in each]
    assert limits == ["100", "100"]
    accounts.change_plan(context, sender.account_id, PLANS["standard"], None)
    begun = time.monotonic()
    while limits != ["1000", "1000"] and time.monotonic() < begun + 3 * PROMISED:
        limits = [post(two_processes, connection, sender, BAD).headers["RateLimit-Limit"] for connection in each]
        time.sleep(0.1)
    assert time.monotonic() - begun < PROMISED


def test_a_larger_plan_applies_to_an_account_at_its_limit_within_5_seconds(context: AppContext, server: Server) -> None:
    sender = a_sender(context, server, plan="trial")
    accounts.change_plan(context, sender.account_id, PLANS["trial"], 1)
    while sender.post(GOOD).status_code != 429:
        pass
    accounts.change_plan(context, sender.account_id, PLANS["unlimited"], None)
    begun, answer = time.monotonic(), sender.post(GOOD)
    while answer.headers["RateLimit-Limit"] is not None and time.monotonic() < begun + 3 * PROMISED:
        answer = sender.post(GOOD)
    assert answer.status_code == 200
    assert time.monotonic() - begun < PROMISED


def test_a_workflow_that_was_just_enabled_misses_no_event_on_any_process(
    context: AppContext, two_processes: Server, each: Connections
) -> None:
    sender = a_sender(context, two_processes)
    assert [post(two_processes, connection, sender, GOOD).json["runs"] for connection in each] == [[], []]
    workflows.apply_workflow(context, sender.account_id, a_workflow())
    assert [len(post(two_processes, connection, sender, GOOD).json["runs"]) for connection in each] == [1, 1]


# The passing of time, with a clock that tests set


@pytest.fixture
def clock() -> ClockAhead:
    return ClockAhead()


@pytest.fixture
def later(context: AppContext, clock: ClockAhead) -> FlaskClient:
    """The application, living by that clock."""
    app = create_app(config.from_environment(settings_of(context) | {"LOG_LEVEL": "error"}))
    app.extensions["context"].clock = clock
    return app.test_client()


def test_a_key_ends_with_its_time(context: AppContext, later: FlaskClient, clock: ClockAhead) -> None:
    owner = a_sender(context, later)
    token = api_keys.create_key(context, owner.account_id, "short", (EVENTS_WRITE,), timedelta(hours=1))
    sender = Sender(owner.account_id, owner.slug, token, later)
    clock.ahead += timedelta(minutes=59)
    assert sender.post(GOOD).status_code == 200
    clock.ahead += timedelta(minutes=1)
    assert (sender.post(GOOD).status_code, sender.post(BAD).status_code) == (401, 401)
    assert owner.post(GOOD).status_code == 200


def test_the_trial_ends_after_30_days_and_a_new_plan_begins_at_once(
    context: AppContext, later: FlaskClient, clock: ClockAhead
) -> None:
    sender = a_sender(context, later, plan="trial")
    clock.ahead += timedelta(days=29, hours=23)
    assert sender.post(GOOD).status_code == 200
    clock.ahead += timedelta(hours=1)
    answer = sender.post(GOOD)
    assert answer.status_code == 403
    assert "trial" in answer.json["detail"]
    accounts.change_plan(context, sender.account_id, PLANS["standard"], None)
    assert seconds_until(200, lambda: sender.post(GOOD)) < PROMISED


def last_used_at(rows: Rows, sender: Sender) -> tuple[object, ...]:
    """When the sender's key was last used, and which transaction wrote its row."""
    return rows("SELECT last_used_at, xmin::text FROM keys WHERE prefix = %s", sender.token[3:11])[0]


@pytest.mark.parametrize("body", [GOOD, BAD])
def test_the_use_of_a_key_is_noted_to_the_minute(
    context: AppContext, later: FlaskClient, clock: ClockAhead, rows: Rows, body: dict[str, str]
) -> None:
    sender = a_sender(context, later)
    assert last_used_at(rows, sender)[0] is None
    for _ in range(2):
        before = clock().replace(second=0, microsecond=0)
        sender.post(body)
        noted = last_used_at(rows, sender)[0]
        assert isinstance(noted, datetime)
        assert before <= noted <= clock()
        assert (noted.second, noted.microsecond) == (0, 0)
        clock.ahead += timedelta(minutes=1)


def test_the_use_of_a_key_is_written_once_a_minute(
    later: FlaskClient, context: AppContext, clock: ClockAhead, rows: Rows
) -> None:
    sender = a_sender(context, later)
    clock.ahead += timedelta(seconds=60 - clock().second + 1)
    sender.post(GOOD)
    first = last_used_at(rows, sender)
    for _ in range(20):
        sender.post(GOOD)
    assert last_used_at(rows, sender) == first


# Round trips, as Postgres' own log counts them


@pytest.fixture(scope="module")
def watched_server(own_postgres: EmbeddedPostgres, own_context: AppContext) -> Iterator[Server]:
    """One web process, whose every statement Postgres writes down. A superuser's sessions would keep them out of the log."""
    with closing(psycopg2.connect(own_postgres.url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("CREATE ROLE watched LOGIN")
        cursor.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO watched")
        cursor.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO watched")
        cursor.execute("GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO watched")
        cursor.execute("ALTER ROLE watched SET log_statement = 'all'")
    parts = urlsplit(own_postgres.url)
    url = urlunsplit(parts._replace(netloc=f"watched@{parts.netloc.rpartition('@')[2]}"))
    with running_server(**settings_of(own_context) | {"DATABASE_URL": url}) as running:
        yield running


@pytest.fixture
def statements(own_postgres: EmbeddedPostgres) -> Callable[[Callable[[], object]], list[str]]:
    """What the web process asks Postgres while something is done, a line a statement."""
    log = Path(own_postgres.url.partition("host=")[2]).parent / "postgres.log"

    def during(something: Callable[[], object]) -> list[str]:
        # The note of a key's use, once a minute, is left aside: here it must not fall into the time that is watched.
        while datetime.now(UTC).second >= 50:
            time.sleep(0.5)
        something()
        read_from = log.stat().st_size
        something()
        with log.open("rb") as file:
            file.seek(read_from)
            lines = file.read().decode().splitlines()
        return [line.partition("statement: ")[2] for line in lines if "LOG:  statement: " in line]

    return during


Watch = Callable[[Callable[[], object]], list[str]]


def test_an_event_of_a_known_key_is_one_statement(
    own_context: AppContext, watched_server: Server, statements: Watch
) -> None:
    sender = a_sender(own_context, watched_server)
    found = statements(lambda: [sender.post(GOOD) for _ in range(10)])
    assert len(found) == 10
    assert all(statement.startswith("EXECUTE insert_events ") for statement in found)


def test_an_event_with_an_idempotency_key_that_starts_a_workflow_is_one_statement(
    own_context: AppContext, watched_server: Server, statements: Watch
) -> None:
    sender = a_sender(own_context, watched_server)
    workflows.apply_workflow(own_context, sender.account_id, a_workflow())
    keys = iter(range(100))
    found = statements(lambda: [sender.post(GOOD, Idempotency_Key=str(next(keys))) for _ in range(10)])
    assert len(found) == 10
    assert all(statement.startswith("EXECUTE insert_events_with_more_keys_runs ") for statement in found)


def test_refusals_to_a_known_key_cost_no_query(
    own_context: AppContext, watched_server: Server, statements: Watch
) -> None:
    sender = a_sender(own_context, watched_server)

    def refused() -> None:
        assert sender.post(GOOD).status_code == 200
        assert [sender.post(BAD).status_code for _ in range(10)] == [422] * 10

    # More than one only when this took so long that the snapshot of the account had to be confirmed again.
    assert min(len(statements(refused)) for _ in range(3)) == 1


def test_an_unknown_key_costs_one_query(own_context: AppContext, watched_server: Server, statements: Watch) -> None:
    sender = a_sender(own_context, watched_server)
    stranger = replace(sender, token=make_key()[0])

    def refused() -> None:
        for _ in range(5):
            assert stranger.post(GOOD).status_code == 401

    # More only if this took so long that the snapshot had to be confirmed again.
    assert min(len(statements(lambda: replace(sender, token=make_key()[0]).post(GOOD))) for _ in range(3)) == 1
    assert min(len(statements(refused)) for _ in range(3)) == 0
    assert sender.post(GOOD).status_code == 200


def test_a_new_key_has_a_checksum_in_its_last_six_characters() -> None:
    key, prefix, _ = make_key()
    assert re.fullmatch(r"sb_[0-9A-Za-z]{8}_[0-9A-Za-z_-]{49}", key)
    assert prefix_of(key) == prefix


@pytest.mark.parametrize("position", [3, 10, 12, 54, 55, 60])
def test_a_key_with_one_wrong_character_is_no_key(position: int) -> None:
    key = make_key()[0]
    other = "A" if key[position] != "A" else "B"
    assert prefix_of(key[:position] + other + key[position + 1 :]) == ""


def test_a_key_without_a_checksum_from_an_earlier_release_is_valid(context: AppContext, server: Server) -> None:
    sender = a_sender(context, server)
    earlier = Key("Earlier" + str(sender.account_id)[-1], b"", (EVENTS_WRITE,), None)
    text = f"sb_{earlier.prefix}_" + "x" * 43
    with context.database.transaction() as connection:
        db_api_keys.insert_key(
            connection, sender.account_id, replace(earlier, digest=digest_of(text)), "earlier", context.clock()
        )
    assert replace(sender, token=text).post(GOOD).status_code == 200


def test_a_mistyped_key_costs_no_query(own_context: AppContext, watched_server: Server, statements: Watch) -> None:
    mistyped = [replace(a_sender(own_context, watched_server), token=make_key()[0][:-1] + "!") for _ in range(3)]
    swapped = make_key()[0][:-12] + make_key()[0][-12:]
    mistyped.append(replace(mistyped[0], token=swapped))

    def refused() -> None:
        assert [sender.post(GOOD).status_code for sender in mistyped] == [401] * 4

    assert statements(refused) == []


def test_the_memory_for_unknown_keys_is_bounded(context: AppContext) -> None:
    fresh = AccountCache(context)
    fresh._unknown_keys = dict.fromkeys(map(str, range(10_000)), 0.0)
    assert fresh.find_by_key("nobody00") is None
    assert set(fresh._unknown_keys) == {"nobody00"}


def test_a_malformed_key_costs_no_query(watched_server: Server, statements: Watch) -> None:
    headers = {"x-fb-account-id": "1", "x-limechat-uat": "' OR ''='", "Content-Type": "application/json"}
    assert statements(lambda: watched_server.post(EVENTS_PATH, data=b"{}", headers=headers)) == []


def test_a_delivery_of_a_known_source_is_one_statement(
    own_context: AppContext, watched_server: Server, statements: Watch
) -> None:
    sender = a_sender(own_context, watched_server)
    source, numbers = a_source(own_context, watched_server, sender.account_id), iter(range(100))
    found = statements(lambda: [source.post(an_order(next(numbers))) for _ in range(10)])
    written = [
        statement for statement in found if statement.startswith("EXECUTE insert_events_with_more_keys_deliveries ")
    ]
    assert len(written) == 10
    # What the process asks now and then, and nothing else for each delivery.
    assert len(found) - len(written) < 10


def test_deliveries_with_bad_signatures_cost_no_query_each(
    own_context: AppContext, watched_server: Server, statements: Watch
) -> None:
    sender = a_sender(own_context, watched_server)
    source = a_source(own_context, watched_server, sender.account_id)
    found = statements(lambda: [source.post(an_order(1), secret="another") for _ in range(100)])
    # The check of the snapshot once in two seconds, and a row a second, each in a transaction.
    assert len(found) < 50
