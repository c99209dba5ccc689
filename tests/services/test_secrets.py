"""Secrets of accounts: names and values, encryption in the database, what uses them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet

from app.core.config import SettingsError
from app.core.errors import Problem
from app.db.accounts import find_account_snapshot, find_account_version
from app.db.audit import EntryFilter
from app.db.document_versions import NewVersion
from app.db.sources import save_version, set_enabled
from app.services import audit, integrations, secrets, workflows
from app.services.context import AppContext
from app.workflows.validate import find_mistakes
from app.workflows.yaml_loader import InvalidDocument
from tests.support.builders import Sender, a_workflow

VALUE = "canary-shpss-91c0ffee"


def values(context: AppContext, sender: Sender, *names: str) -> dict[str, str]:
    """The values that a process reads by the account's snapshot."""
    with context.database.transaction() as connection:
        snapshot = find_account_snapshot(connection, sender.account_id)
    assert snapshot is not None
    return secrets.decrypt_secrets(context, snapshot.secrets, names or snapshot.secrets)


def version(context: AppContext, sender: Sender) -> int:
    with context.database.transaction() as connection:
        found = find_account_version(connection, sender.account_id)
    assert found is not None
    return found


def stored(context: AppContext, sender: Sender) -> list[bytes]:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql("SELECT value FROM secrets WHERE account_id = %s", (sender.account_id,))
        return [bytes(value) for (value,) in found]


def changes(
    context: AppContext, sender: Sender
) -> list[tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    wanted = EntryFilter(account_id=sender.account_id, action="secret")
    return [(one.action, one.before, one.after) for one in audit.list_entries(context, wanted, 10)]


# Setting and reading


def test_a_process_reads_the_value_that_was_set(context: AppContext, acme: Sender, globex: Sender) -> None:
    assert secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    assert values(context, acme) == {"SHOPIFY": VALUE}
    assert values(context, globex) == {}


def test_names_without_a_secret_are_left_out(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    secrets.set_secret(context, acme.account_id, "OTHER", "another value")
    assert values(context, acme, "SHOPIFY", "MISSING") == {"SHOPIFY": VALUE}


def test_a_new_value_replaces_the_old_one_and_makes_snapshots_stale(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    before = version(context, acme)
    assert not secrets.set_secret(context, acme.account_id, "SHOPIFY", "another value")
    assert values(context, acme) == {"SHOPIFY": "another value"}
    assert version(context, acme) > before
    (listed,) = secrets.list_secrets(context, acme.account_id)
    assert listed.updated_at > listed.created_at


def test_the_database_contains_no_unencrypted_value(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    (value,) = stored(context, acme)
    assert VALUE.encode() not in value


def test_a_value_that_no_key_decrypts_is_an_error_of_the_settings(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    stranger = AppContext(replace(context.settings, encryption_keys=(Fernet.generate_key().decode(),)))
    with pytest.raises(SettingsError, match="cannot decrypt"):
        values(stranger, acme)


@pytest.mark.parametrize("name", ["", "shopify", "1A", "A-B", "A.B", "É", "A" * 65, "A\n"])
def test_a_name_has_capital_letters_digits_and_underscores(name: str, context: AppContext, acme: Sender) -> None:
    with pytest.raises(Problem, match="is not a name of a secret"):
        secrets.set_secret(context, acme.account_id, name, VALUE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "at least 8 characters"),
        ("1234567", "at least 8 characters"),
        (" with a space before", "begin or end with spaces"),
        ("with a line break after\n", "begin or end with spaces"),
        ("with a\x00zero", "control characters"),
        ("with an \x1b[31mescape", "control characters"),
        ("a lone \ud800 surrogate", "control characters"),
        ("x" * 4_097, "has 4,097 bytes; 4,096 are allowed"),
        ("é" * 2_049, "has 4,098 bytes; 4,096 are allowed"),
    ],
)
def test_a_value_that_cannot_be_a_secret_is_refused_without_being_shown(
    value: str, message: str, context: AppContext, acme: Sender
) -> None:
    with pytest.raises(Problem, match=message) as refused:
        secrets.set_secret(context, acme.account_id, "SHOPIFY", value)
    assert not value or value not in str(refused.value)
    assert stored(context, acme) == []


@pytest.mark.parametrize(
    "value", ["12345678", "é" * 2_048, "-----BEGIN KEY-----\r\nab\tcd\n-----END KEY-----", "a b c d e"]
)
def test_a_value_is_any_text_of_up_to_4096_bytes(value: str, context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", value)
    assert values(context, acme) == {"SHOPIFY": value}


def test_an_account_has_a_limited_number_of_secrets(
    context: AppContext, acme: Sender, globex: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "MAX_SECRETS", 2)
    for name in ("A", "B", "A"):
        secrets.set_secret(context, acme.account_id, name, VALUE)
    with pytest.raises(Problem, match="has 2 secrets; 2 are allowed"):
        secrets.set_secret(context, acme.account_id, "C", VALUE)
    secrets.set_secret(context, globex.account_id, "C", VALUE)


# Removing


def test_a_removed_secret_is_deleted(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    before = version(context, acme)
    assert secrets.remove_secret(context, acme.account_id, "SHOPIFY") == ()
    assert stored(context, acme) == []
    assert version(context, acme) > before
    with pytest.raises(Problem, match="has no secret 'SHOPIFY'"):
        secrets.remove_secret(context, acme.account_id, "SHOPIFY")


# What uses a secret


def call(name: str) -> dict[str, Any]:
    return {"http": {"url": "https://shop.example/", "headers": {"Authorization": f"Bearer {{{{ secrets.{name} }}}}"}}}


def used_by(context: AppContext, sender: Sender) -> dict[str, tuple[str, ...]]:
    return {one.name: one.used_by for one in secrets.list_secrets(context, sender.account_id)}


def test_enabled_workflows_use_the_secrets_that_their_steps_read(
    context: AppContext, acme: Sender, globex: Sender
) -> None:
    for name in ("A", "B", "C"):
        secrets.set_secret(context, acme.account_id, name, VALUE)
    secrets.set_secret(context, globex.account_id, "A", VALUE)
    inside = {"if": "data.price > 1", "then": [call("A")], "else": [{"par": [[call("B")], [call("A")]]}]}
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[inside]))
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="again", steps=[call("A")]))
    assert used_by(context, acme) == {"A": ("workflow again", "workflow watch"), "B": ("workflow watch",), "C": ()}
    assert used_by(context, globex) == {"A": ()}


def test_sources_use_the_secrets_that_their_latest_version_names(context: AppContext, acme: Sender) -> None:
    for name in ("A", "B", "C", "D"):
        secrets.set_secret(context, acme.account_id, name, VALUE)
    first = {"secrets": ["{{ secrets.C }}"]}
    second = {"secrets": ["{{ secrets.A }}", "{{secrets.B}}"], "verify_token": "{{ secrets.D }}"}
    source_id = uuid4()
    for number, document in enumerate((first, second), 1):
        new = NewVersion(source_id, "shop", number, "", document)
        with context.database.transaction() as connection:
            save_version(connection, acme.account_id, new, context.clock())
    with context.database.transaction() as connection:
        set_enabled(connection, acme.account_id, source_id, enabled=False, now=context.clock())
    users = ("source shop",)
    assert used_by(context, acme) == {"A": users, "B": users, "C": (), "D": users}
    with pytest.raises(Problem, match="A is used by source shop"):
        secrets.remove_secret(context, acme.account_id, "A")


def test_disabled_workflows_and_earlier_versions_use_no_secret(context: AppContext, acme: Sender) -> None:
    for name in ("A", "B"):
        secrets.set_secret(context, acme.account_id, name, VALUE)
    for name in ("A", "B"):
        workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[call(name)]))
    assert used_by(context, acme) == {"A": (), "B": ("workflow watch",)}
    workflows.disable_workflow(context, acme.account_id, "watch")
    assert used_by(context, acme) == {"A": (), "B": ()}


def test_a_secret_that_is_used_stays_unless_it_is_forced(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "A", VALUE)
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[call("A")]))
    with pytest.raises(Problem, match=r"^A is used by workflow watch$"):
        secrets.remove_secret(context, acme.account_id, "A")
    assert values(context, acme) == {"A": VALUE}
    assert secrets.remove_secret(context, acme.account_id, "A", force=True) == ("workflow watch",)
    assert values(context, acme) == {}
    assert changes(context, acme)[0][1] == {"value": "***", "used_by": ["workflow watch"]}


SOURCE = """\
name: watch
on: product_view
steps:
  - log: hello
  - if: data.price > 1
    then:
      - http:
          url: https://shop.example/
          headers:
            Authorization: Bearer {{ secrets.MISSING }}
"""
MISTAKE = "steps[1].then[0].http.headers.Authorization (line 10, column 28): the account has no secret MISSING"


def test_a_workflow_that_reads_an_unknown_secret_is_not_saved(
    context: AppContext, acme: Sender, globex: Sender
) -> None:
    secrets.set_secret(context, globex.account_id, "MISSING", VALUE)
    with pytest.raises(InvalidDocument) as refused:
        workflows.apply_workflow(context, acme.account_id, SOURCE)
    assert [str(mistake) for mistake in refused.value.mistakes] == [MISTAKE]
    assert workflows.list_workflows(context, acme.account_id) == []
    assert workflows.apply_workflow(context, globex.account_id, SOURCE).change == "created"


def test_a_draft_that_reads_an_unknown_secret_can_be_enabled_once_it_is_set(context: AppContext, acme: Sender) -> None:
    saved = workflows.save_draft(context, acme.account_id, SOURCE)
    assert [str(mistake) for mistake in saved.mistakes] == [MISTAKE]
    with pytest.raises(InvalidDocument, match="has no secret MISSING"):
        workflows.enable_workflow(context, acme.account_id, "watch")
    secrets.set_secret(context, acme.account_id, "MISSING", VALUE)
    assert workflows.enable_workflow(context, acme.account_id, "watch") == 1


def test_a_document_with_secrets_is_checked_without_a_database() -> None:
    assert find_mistakes(SOURCE.encode()) == []


# Encryption and the audit log


def test_after_rotation_of_the_encryption_key_the_new_key_decrypts_alone(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    (old,), new = context.settings.encryption_keys, Fernet.generate_key().decode()
    both, alone, back = (
        AppContext(replace(context.settings, encryption_keys=keys)) for keys in ((new, old), (new,), (old, new))
    )
    try:
        assert integrations.rotate_secrets(both).undecryptable == ()
        assert values(alone, acme) == {"SHOPIFY": VALUE}
    finally:
        integrations.rotate_secrets(back)


def test_a_secret_that_no_key_decrypts_is_reported_by_its_name(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    before = stored(context, acme)
    stranger = AppContext(replace(context.settings, encryption_keys=(Fernet.generate_key().decode(),)))
    rotated = integrations.rotate_secrets(stranger)
    assert f"secret SHOPIFY of account {acme.account_id}" in rotated.undecryptable
    assert stored(context, acme) == before


def test_the_audit_log_says_who_set_and_removed_what_and_no_value(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    secrets.set_secret(context, acme.account_id, "SHOPIFY", f"{VALUE}-2")
    secrets.remove_secret(context, acme.account_id, "SHOPIFY")
    removed, changed, created = changes(context, acme)
    assert [removed[0], changed[0], created[0]] == ["secret.remove", "secret.set", "secret.set"]
    assert created[1] is None and removed[2] is None
    for shown in (created[2], changed[1], changed[2], removed[1]):
        assert shown is not None and shown["value"] == "***"
    assert VALUE not in json.dumps([removed, changed, created])
