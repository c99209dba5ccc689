"""The migrations, replayed on an empty database, lead to the model in app/db/tables/, and everything is commented."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.core.config import SettingsError
from app.core.models import CLIENT_SCOPES
from app.db.migrate import DIRECTORY, head, predecessors, upgrade
from app.db.tables import metadata


def _engine(url: str) -> sa.Engine:
    return sa.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(url))


def _ours(name: str | None, kind: str, parents: dict[str, str | None]) -> bool:
    """Neither the partitions of `events` nor Alembic's own table."""
    table = name if kind == "table" else parents.get("table_name")
    return table is None or not re.match(r"events_|alembic_version", table)


def test_the_migrations_lead_to_the_model(database_url: str) -> None:
    with _engine(database_url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": _ours, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_every_table_and_column_has_a_comment(database_url: str) -> None:
    with _engine(database_url).connect() as connection:
        uncommented = connection.execute(
            sa.text(
                "SELECT relname, attname FROM pg_class LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 "
                "AND NOT attisdropped WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace "
                "AND (obj_description(pg_class.oid, 'pg_class') IS NULL OR col_description(pg_class.oid, attnum) IS NULL)"
            )
        ).all()
    assert uncommented == []


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    upgrade(database_url)
    with _engine(database_url).connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM alembic_version")).scalar() == 1


def test_a_database_that_cannot_hold_all_texts_is_refused_with_what_to_do(database_url: str) -> None:
    name = f"ascii_{os.getpid()}"
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        try:
            with pytest.raises(SettingsError, match="the encoding SQL_ASCII; create one with ENCODING 'UTF8'"):
                upgrade(urlunsplit(urlsplit(database_url)._replace(path=f"/{name}")))
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_before_0007(empty_database: str) -> str:
    """A database before migration 0007, with partitions."""
    upgrade(empty_database, target="0006")
    month = datetime.now(UTC).replace(day=1)
    for name in (f"events_{month + timedelta(days=31 * ahead):%Y_%m}" for ahead in range(4)):
        year, number = map(int, name.split("_")[1:])
        after = f"{year + number // 12}-{number % 12 + 1:02}-01"
        _alone(
            empty_database,
            f"CREATE TABLE {name} (LIKE events INCLUDING ALL); ALTER TABLE events ATTACH PARTITION {name} "
            f"FOR VALUES FROM ('{year}-{number:02}-01 00:00+00') TO ('{after} 00:00+00')",
        )
    return empty_database


def _alone(url: str, statement: str) -> None:
    """Execute one statement outside of a transaction."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)


def _indexes(url: str) -> dict[str, bool]:
    """The indexes of `events` and its partitions, and whether each is valid."""
    with _engine(url).connect() as connection:
        found = connection.execute(
            sa.text(
                "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
                "WHERE indrelid = 'events'::regclass OR indrelid IN "
                "(SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)"
            )
        )
        return {row.relname: row.indisvalid for row in found}


def test_existing_partitions_get_indexes_while_they_are_written_to(database_before_0007: str) -> None:
    upgrade(database_before_0007)
    found = _indexes(database_before_0007)
    assert all(found.values())
    # Of `events` and its five partitions.
    assert len([name for name in found if name.endswith("name_idx")]) == 6


def test_a_migration_that_stopped_between_two_indexes_can_be_repeated(database_before_0007: str) -> None:
    month = f"events_{datetime.now(UTC):%Y_%m}"
    _alone(database_before_0007, "CREATE INDEX events_name_idx ON ONLY events (account_id, event, id)")
    _alone(database_before_0007, f"CREATE INDEX {month}_name_idx ON {month} (account_id, event, id)")
    _alone(
        database_before_0007,
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{month}_name_idx'::regclass",
    )
    upgrade(database_before_0007)
    assert all(_indexes(database_before_0007).values())


def test_existing_clients_get_all_scopes_api_augments_keep_get_and_targets_with_tokens_go(empty_database: str) -> None:
    upgrade(empty_database, target="0010")
    _alone(
        empty_database,
        "INSERT INTO accounts (slug, plan, signing_secret) VALUES ('acme', 'trial', ''); "
        "INSERT INTO clients (account_id, id, digest, name) SELECT id, 'cl_1', '', '' FROM accounts; "
        "INSERT INTO augments (account_id, number, name, description, type, url, in_options, created_at, updated_at) "
        "SELECT id, 1, '', '', 'api', 'http://crm.example/', false, now(), now() FROM accounts; "
        "INSERT INTO disabled_targets (account_id, target, reason, run_id, disabled_at) "
        "SELECT id, 'https://hooks.example/' || path, 'gone', gen_random_uuid(), now() FROM accounts, "
        "unnest(ARRAY['services/T1/B1/secret', 'services/T1', 'bots']) AS path",
    )
    upgrade(empty_database)
    with _engine(empty_database).connect() as connection:
        assert connection.execute(sa.text("SELECT scopes FROM clients")).scalar() == list(CLIENT_SCOPES)
        assert connection.execute(sa.text("SELECT method FROM augments")).scalar() == "GET"
        targets = connection.execute(sa.text("SELECT target FROM disabled_targets ORDER BY target")).scalars().all()
    assert targets == ["https://hooks.example/bots", "https://hooks.example/services/T1"]


def test_migrations_form_one_chain_in_the_order_of_their_numbers() -> None:
    before = predecessors()
    chain = [head()]
    while before[chain[-1]]:
        chain.append(before[chain[-1]])
    files = sorted(file.name[:4] for file in (Path(DIRECTORY) / "versions").glob("*.py"))
    assert chain[::-1] == files == [f"{number:04}" for number in range(1, len(files) + 1)]


def test_each_migration_documents_its_locks_and_its_safety() -> None:
    for file in (Path(DIRECTORY) / "versions").glob("*.py"):
        text = file.read_text()
        assert "\nLocks: " in text, file.name
        assert "\nSafe with the previous code: " in text, file.name


def test_the_coming_months_have_partitions(database_url: str) -> None:
    with _engine(database_url).connect() as connection:
        missing = connection.execute(
            # This month, three more, and the default one. Other tests make more.
            sa.text(
                "SELECT name FROM (SELECT 'events_' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC') "
                "+ n * interval '1 month', 'YYYY_MM') FROM generate_series(0, 3) AS n "
                "UNION SELECT 'events_default') AS wanted (name) "
                "WHERE name NOT IN (SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass)"
            )
        ).fetchall()
    assert missing == []


def test_the_index_on_via_reaches_partitions_with_events_and_can_be_created_again(empty_database: str) -> None:
    upgrade(empty_database, target="0003")
    with closing(psycopg2.connect(empty_database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(
            "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) "
            "VALUES (1, gen_random_uuid(), 'e', 'd', '{}', '2020-01-01')"
        )
        upgrade(empty_database, target="0004")
        # As if it had stopped before its version was stored, with one index half built.
        cursor.execute("UPDATE alembic_version SET version_num = '0003'")
        cursor.execute("DROP INDEX events_via_idx")
        cursor.execute("CREATE INDEX events_default_via_idx ON events_default (event)")
        upgrade(empty_database, target="0004")
        cursor.execute("SELECT bool_and(indisvalid), count(*) FROM pg_index WHERE indexrelid::regclass::text ~ 'via'")
        assert cursor.fetchone() == (True, 2)
        cursor.execute("SELECT pg_get_indexdef('events_default_via_idx'::regclass)")
        assert "(account_id, id) WHERE (via IS NOT NULL)" in str(cursor.fetchone())
        cursor.execute("SELECT count(*) FROM events WHERE via IS NULL")
        assert cursor.fetchone() == (1,)


def test_adding_columns_to_two_tables_does_not_deadlock_with_events(empty_database: str) -> None:
    upgrade(empty_database, target="0003")
    held = (
        "SELECT count(*) FILTER (WHERE NOT granted AND relation = 'events'::regclass), "
        "count(*) FILTER (WHERE granted AND relation = 'accounts'::regclass) FROM pg_locks "
        "WHERE mode = 'AccessExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with closing(psycopg2.connect(empty_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM events")
        with ThreadPoolExecutor(1) as threads:
            migrated = threads.submit(upgrade, empty_database, target="0004")
            waiting = 0
            while not waiting and not migrated.done():
                cursor.execute(held)
                waiting, accounts_locked = cursor.fetchone() or (0, 0)
            connection.rollback()
            migrated.result(60)
    assert (waiting, accounts_locked) == (1, 0)


# Numbers and texts as an order's number: in the event, and as the subject that earlier releases stored.
SPELLINGS = [("98765.0", "98765.0", "98765"), ("1e2", "100.0", "100"), ('"7.0"', "7.0", "7.0"), ("8", "8", "8")]
FILLED = """
INSERT INTO accounts (slug, plan, signing_secret, key_attribute) VALUES ('acme', 'trial', '', 'order');
INSERT INTO workflows (account_id, id, name, latest_version)
    SELECT id, '00000000-0000-0000-0000-000000000001', 'w', 1 FROM accounts;
INSERT INTO workflow_versions (account_id, workflow_id, version, document, source)
    SELECT id, '00000000-0000-0000-0000-000000000001', 1, '{"key": "data.order", "steps": []}', '' FROM accounts;
UPDATE workflows SET enabled_version = 1;
"""


def test_subjects_of_numbers_get_the_spelling_of_this_release(empty_database: str) -> None:
    upgrade(empty_database, target="0013")
    _alone(empty_database, FILLED)
    for number, (sent, stored, _) in enumerate(SPELLINGS):
        event = f"00000000-0000-7000-8000-{number:012}"
        _alone(
            empty_database,
            f"""
            INSERT INTO events (account_id, id, event, distinct_id, data, received_at)
                SELECT id, '{event}', 'a', '{stored}', '{{"order": {sent}}}', now() FROM accounts;
            INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched,
                              distinct_id, subject, status, at, created_at, updated_at)
                SELECT account_id, id, '00000000-0000-0000-0000-000000000001', 1, '{event}', id, received_at, '{{}}',
                       distinct_id, distinct_id, 'running', 'steps[0]', now(), now() FROM events WHERE id = '{event}';
            INSERT INTO keyed_events (account_id, key, subject, event_id, received_at)
                SELECT account_id, 'data.order', distinct_id, id, received_at FROM events WHERE id = '{event}';
            INSERT INTO progress (account_id, workflow_id, subject, enablement, progress, last_event_at)
                SELECT account_id, '00000000-0000-0000-0000-000000000001', distinct_id, 1,
                       '{{"events": {{"1": ["{event}", "2026-10-18T12:00:00+00:00"]}}}}', now() FROM events WHERE id = '{event}';
            """,
        )
    upgrade(empty_database)
    with _engine(empty_database).connect() as connection:
        for table, column in (
            ("runs", "subject"),
            ("runs", "distinct_id"),
            ("keyed_events", "subject"),
            ("progress", "subject"),
        ):
            found = connection.execute(sa.text(f"SELECT {column} FROM {table}")).scalars()
            assert set(found) == {text for _, _, text in SPELLINGS}, (table, column)


def test_the_time_at_which_events_happened_can_be_added_and_removed_with_events_stored(empty_database: str) -> None:
    from alembic import command
    from alembic.config import Config

    upgrade(empty_database, target="0026")
    columns_before = _commented_columns(empty_database)
    stored = (
        "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) "
        "VALUES (1, gen_random_uuid(), 'e', 'd', '{}', now())"
    )
    _alone(empty_database, stored)
    upgrade(empty_database)
    # As the previous release writes it.
    _alone(empty_database, stored)
    with _engine(empty_database).connect() as connection:
        assert connection.execute(sa.text("SELECT occurred_at FROM events")).scalars().all() == [None, None]
        config = Config()
        config.set_main_option("script_location", str(DIRECTORY))
        config.attributes["connection"] = connection
        command.downgrade(config, "0026")
        connection.commit()
        assert connection.execute(sa.text("SELECT count(*) FROM events")).scalar() == 2
    assert _commented_columns(empty_database) == columns_before
    upgrade(empty_database)


def _commented_columns(url: str) -> list[tuple[object, ...]]:
    """The columns of `events` and of the view on it, with their comments."""
    with _engine(url).connect() as connection:
        found = connection.execute(
            sa.text(
                "SELECT attrelid::regclass::text, attname, col_description(attrelid, attnum) FROM pg_attribute "
                "WHERE attrelid IN ('events'::regclass, 'events_default'::regclass, 'ops.events_recent'::regclass) "
                "AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum"
            )
        )
        return [tuple(row) for row in found]
