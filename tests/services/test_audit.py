"""The audit log: what an entry says, and what it never says; who can change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg2
import pytest
import sqlalchemy as sa

from app.core.errors import Problem
from app.core.models import PLANS, Actor
from app.db import audit as db_audit
from app.db.accounts import AccountDetails
from app.db.audit import Change, Entry, EntryFilter
from app.db.connection import run_sql
from app.services import accounts, audit, data_subjects, integrations, runs, workflows
from app.services.context import AppContext
from app.workflows.yaml_loader import InvalidDocument
from tests.support.builders import Sender, a_workflow, an_event

ANNA = Actor("anna", "cli")


def _entries(context: AppContext, account_id: int) -> list[Entry]:
    """All entries of an account but those of its creation, newest first."""
    found = audit.list_entries(context, EntryFilter(account_id), 1_000)
    return [entry for entry in found if entry.action not in ("account.create", "key.create")]


def _record(context: AppContext, account_id: int, **members: object) -> Entry:
    """The entry of a change of an object with these members."""
    with context.database.transaction() as connection:
        audit.record(connection, context, Change("thing.change", account_id, "1", None, members))
    return _entries(context, account_id)[0]


def test_an_entry_says_who_disabled_a_workflow(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    workflows.disable_workflow(context.acting_as(ANNA), acme.account_id, "watch")
    entry = audit.list_entries(context, EntryFilter(acme.account_id, action="workflow.disable", object_id="watch"), 10)[
        0
    ]
    assert (entry.actor, entry.via, entry.account, entry.object_type) == ("anna", "cli", acme.slug, "workflow")
    assert (entry.before, entry.after) == ({"enabled_version": 1}, {"enabled_version": None})


def test_acting_as_somebody_leaves_the_context_of_the_process_unchanged(context: AppContext) -> None:
    theirs = context.acting_as(ANNA)
    assert (theirs.actor, context.actor) == (ANNA, Actor("signalbox", "worker"))
    assert theirs.database is context.database


def test_a_change_that_is_rolled_back_leaves_no_entry(context: AppContext, acme: Sender) -> None:
    with pytest.raises(RuntimeError), context.database.transaction() as connection:
        audit.record(connection, context, Change("thing.change", acme.account_id, "1"))
        raise RuntimeError
    assert _entries(context, acme.account_id) == []


def test_a_change_that_is_refused_leaves_no_entry(context: AppContext, acme: Sender) -> None:
    with pytest.raises(Problem):
        accounts.update_account_details(context, acme.account_id, AccountDetails(name="\n"))
    with pytest.raises(Problem):
        accounts.create_account(context, acme.slug, PLANS["trial"])
    with pytest.raises(Problem):
        integrations.set_integration(context, acme.account_id, integrations.find_kind("twilio"), {"from": "x"})
    with pytest.raises(InvalidDocument):
        workflows.apply_workflow(context, acme.account_id, a_workflow(on=...))
    assert _entries(context, acme.account_id) == []


def test_what_changes_nothing_leaves_no_entry(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    before = _entries(context, acme.account_id)
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    accounts.switch_account(context, acme.account_id, on=True)
    accounts.update_account_details(context, acme.account_id, AccountDetails())
    assert runs.retry_runs(context, acme.account_id, [uuid4()]) == set()
    assert runs.cancel_runs(context, acme.account_id, [uuid4()]) == set()
    assert _entries(context, acme.account_id) == before


def test_an_entry_has_only_what_has_changed(context: AppContext, acme: Sender) -> None:
    accounts.update_account_details(context, acme.account_id, AccountDetails(name="Shop", unusable_phone="store"))
    entry = _entries(context, acme.account_id)[0]
    assert entry.before == {"name": acme.slug, "unusable_phone": "refuse"}
    assert entry.after == {"name": "Shop", "unusable_phone": "store"}


def test_a_new_version_is_named_with_the_paths_that_differ(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"log": "other"}]))
    changed, created = _entries(context, acme.account_id)
    assert (created.action, created.before, created.after) == (
        "workflow.create", None, {"version": 1, "enabled_version": 1}
    )  # fmt: skip
    assert changed.action == "workflow.change"
    assert changed.before == {"version": 1, "enabled_version": 1}
    assert changed.after == {"version": 2, "enabled_version": 2, "changed": ["steps[0].log"]}


def test_a_secret_that_changes_is_named_and_not_shown(context: AppContext, acme: Sender) -> None:
    kind = integrations.find_kind("whatsapp")
    integrations.set_integration(
        context, acme.account_id, kind, {"access_token": "canary-1", "phone_number_id": "106540352242922"}
    )
    integrations.set_integration(context, acme.account_id, kind, {"access_token": "canary-2"})
    changed, created = _entries(context, acme.account_id)
    assert created.before is None
    assert (changed.before, changed.after) == ({"access_token": "***"}, {"access_token": "***"})
    assert "canary" not in str(_entries(context, acme.account_id))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://anna:canary@crm.example/a", "https://***@crm.example/a"),
        ("https://canary@crm.example", "https://***@crm.example"),
        ("https://crm.example/?a=1&api_key=canary#x", "https://crm.example/?a=1&api_key=***#x"),
        ("https://crm.example/?access%5Ftoken=canary", "https://crm.example/?access%5Ftoken=***"),
        ("https://hooks.slack.com/services/T0/B0/canary", "https://hooks.slack.com/services/***"),
        ("see postgresql://app:canary@db/x and https://a.example/", "see postgresql://***@db/x and https://a.example/"),
    ],
)
def test_secrets_in_urls_are_masked(url: str, shown: str, context: AppContext, acme: Sender) -> None:
    assert _record(context, acme.account_id, url=url).after == {"url": shown}


def test_members_with_secret_names_are_masked(context: AppContext, acme: Sender) -> None:
    given = {"headers": {"Authorization": "Bearer canary", "X-Shop": "acme"}, "list": [{"password": "canary"}]}
    shown = {"headers": {"Authorization": "***", "X-Shop": "acme"}, "list": [{"password": "***"}]}
    assert _record(context, acme.account_id, **given).after == shown


def test_a_long_text_is_its_hash_and_length(context: AppContext, acme: Sender) -> None:
    after = _record(context, acme.account_id, name="a" * 500, text="a" * 501).after
    assert after == {"name": "a" * 500, "text": audit.digest("a" * 501)}


def test_many_members_are_their_hash_and_length(context: AppContext, acme: Sender) -> None:
    after = _record(context, acme.account_id, **{f"member{number}": "x" * 100 for number in range(100)}).after
    assert after is not None
    assert after.keys() == {"sha256", "length"}


def test_what_postgres_cannot_store_is_replaced(context: AppContext, acme: Sender) -> None:
    assert _record(context, acme.account_id, name="a\x00b\ud800").after == {"name": "a\ufffdb\ufffd"}


def test_a_worker_that_disables_a_target_is_named_once(context: AppContext, acme: Sender) -> None:
    run = uuid4()
    for _ in range(2):
        integrations.disable_target(context, acme.account_id, "https://shop.example/hook", "answered 410", run)
    (entry,) = _entries(context, acme.account_id)
    assert (entry.actor, entry.via, entry.action, entry.object_id) == (
        "signalbox", "worker", "target.disable", "https://shop.example/hook"
    )  # fmt: skip
    assert entry.after == {"reason": "answered 410", "run": str(run)}


def _started(context: AppContext, sender: Sender, subjects: int) -> list[str]:
    """Waiting runs, one for each subject."""
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=[{"wait": "1h"}]))
    return [sender.post(an_event(distinct_id=f"subject-{number}")).get_json()["runs"][0] for number in range(subjects)]


def test_runs_that_one_command_cancels_have_one_entry(context: AppContext, acme: Sender) -> None:
    started = sorted(_started(context, acme, 3))
    ids = [UUID(run) for run in started]
    assert runs.cancel_runs(context, acme.account_id, ids) == set(ids)
    entry = _entries(context, acme.account_id)[0]
    assert (entry.action, entry.object_id) == ("run.cancel", None)
    assert entry.after is not None
    assert entry.after["count"] == 3
    assert sorted(entry.after["runs"]) == started


def test_a_retry_that_is_interrupted_retries_no_run(context: AppContext, acme: Sender) -> None:
    (run,) = _started(context, acme, 1)
    with context.database.transaction() as connection:
        run_sql(connection, "UPDATE runs SET status = 'failed', finished_at = now() WHERE id = :id", {"id": run})

    def interrupt(count: int) -> None:
        assert count == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.retry_runs(context, acme.account_id, [UUID(run)], on_batch=interrupt)
    assert _entries(context, acme.account_id)[0].action == "workflow.create"
    assert runs.retry_runs(context, acme.account_id, [UUID(run)]) == {UUID(run)}
    assert _entries(context, acme.account_id)[0].object_id == run


def test_disabling_with_its_runs_says_how_many(context: AppContext, acme: Sender) -> None:
    _started(context, acme, 2)
    assert workflows.disable_workflow(context, acme.account_id, "watch", cancel_runs=True) == 2
    assert _entries(context, acme.account_id)[0].after == {"enabled_version": None, "cancel_runs": 2}


def test_an_erasure_is_recorded_without_the_subject(context: AppContext, acme: Sender) -> None:
    acme.post(an_event())
    data_subjects.erase_subject(context.acting_as(ANNA), acme.account_id, "915673412780")
    (entry,) = _entries(context, acme.account_id)
    assert (entry.action, entry.actor) == ("subject.erase", "anna")
    assert entry.object_id == data_subjects.hash_subject(context, acme.account_id, "915673412780").hex()
    assert entry.after is not None
    assert entry.after["events"] == 1
    assert "915673412780" not in str(asdict(entry))


def test_an_erasure_masks_the_subject_in_earlier_entries(context: AppContext, acme: Sender, globex: Sender) -> None:
    names = {"name": "for a.b+1", "more": [{"a.b+1": "xa.b+1", "count": 1}]}
    for account_id in (acme.account_id, globex.account_id):
        _record(context, account_id, **names)
    data_subjects.erase_subject(context, acme.account_id, "a.b+1")
    assert _entries(context, acme.account_id)[1].after == {"name": "for ***", "more": [{"***": "xa.b+1", "count": 1}]}
    assert _entries(context, globex.account_id)[0].after == names


def test_a_short_subject_is_masked_only_where_it_is_the_whole_text(context: AppContext, acme: Sender) -> None:
    _record(context, acme.account_id, name="version 1", subject="1", count=1)
    data_subjects.erase_subject(context, acme.account_id, "1")
    assert _entries(context, acme.account_id)[1].after == {"name": "version 1", "subject": "***", "count": 1}


def test_an_erasure_masks_targets_that_the_subject_has_disabled(context: AppContext, acme: Sender) -> None:
    (run,) = _started(context, acme, 1)
    integrations.disable_target(context, acme.account_id, "https://shop.example/anna", "answered 410", UUID(run))
    integrations.enable_target(context, acme.account_id, "https://shop.example/anna")
    integrations.disable_target(context, acme.account_id, "https://shop.example/other", "answered 410", uuid4())
    data_subjects.erase_subject(context, acme.account_id, "subject-0")
    targets = [entry.object_id for entry in _entries(context, acme.account_id) if entry.object_type == "target"]
    assert targets == ["https://shop.example/other", "***", "***"]


def _insert_at(context: AppContext, account_id: int | None, days: int) -> None:
    """An entry that is so many days old."""
    with context.database.transaction() as connection:
        at = context.clock() - timedelta(days=days)
        db_audit.insert_change(connection, ANNA, Change("thing.change", account_id, f"{days} days old"), at)


def _delete(context: AppContext, account_id: int | None, days: int, limit: int = 100) -> int:
    with context.database.transaction() as connection:
        return db_audit.delete_older(connection, account_id, context.clock() - timedelta(days=days), limit)


def test_old_entries_are_deleted_the_oldest_first(context: AppContext, acme: Sender, globex: Sender) -> None:
    for days in (100, 200, 300):
        _insert_at(context, acme.account_id, days)
        _insert_at(context, globex.account_id, days)
    assert _delete(context, acme.account_id, 150, limit=1) == 1
    assert [entry.object_id for entry in _entries(context, acme.account_id)] == ["100 days old", "200 days old"]
    assert _delete(context, acme.account_id, 150) == 1
    assert _delete(context, acme.account_id, 150) == 0
    assert len(_entries(context, globex.account_id)) == 3


def test_entries_of_the_last_thirty_days_are_never_deleted(context: AppContext, acme: Sender) -> None:
    for days in (29, 31):
        _insert_at(context, acme.account_id, days)
    assert _delete(context, acme.account_id, 0) == 1
    assert [entry.object_id for entry in _entries(context, acme.account_id)] == ["29 days old"]


def test_entries_of_no_account_are_deleted_by_themselves(context: AppContext, acme: Sender) -> None:
    _insert_at(context, None, 400)
    _insert_at(context, acme.account_id, 400)
    assert _delete(context, None, 100) == 1
    assert len(_entries(context, acme.account_id)) == 1


@pytest.fixture
def runtime_role(context: AppContext) -> Iterator[sa.Connection]:
    """A connection as a role that may do everything with the rows of all tables, and owns none."""
    role = f"runtime_{uuid4().hex[:8]}"
    with closing(psycopg2.connect(context.database.url)) as owner:
        owner.autocommit = True
        cursor = owner.cursor()
        cursor.execute(f"CREATE ROLE {role}; GRANT ALL ON audit_log TO {role}; GRANT SELECT ON accounts TO {role}")
        cursor.execute(f"GRANT EXECUTE ON FUNCTION delete_audit_log TO {role}")
        engine = sa.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(context.database.url))
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SET ROLE {role}")
            connection.commit()
            yield connection
        engine.dispose()
        cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_runtime_role_adds_and_reads_entries(
    runtime_role: sa.Connection, context: AppContext, acme: Sender
) -> None:
    change = Change("thing.change", acme.account_id, "1")
    db_audit.insert_change(runtime_role, ANNA, change, context.clock() - timedelta(days=50))
    assert db_audit.list_entries(runtime_role, EntryFilter(acme.account_id, actor="anna"), 10)[0].object_id == "1"
    assert db_audit.delete_older(runtime_role, acme.account_id, context.clock(), 10) == 1


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log WHERE false", "TRUNCATE audit_log"]
)
def test_the_runtime_role_cannot_change_entries(statement: str, runtime_role: sa.Connection) -> None:
    with pytest.raises(sa.exc.ProgrammingError, match="rows of audit_log cannot be changed or deleted"):
        runtime_role.exec_driver_sql(statement)
