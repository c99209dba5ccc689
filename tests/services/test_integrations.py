"""Integrations: validation, masking, and encryption in the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet

from app.actions.integration_kinds import KINDS, smtp_port
from app.core.errors import Problem
from app.services import accounts, integrations
from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.certificates import a_certificate, certificate_of
from tests.support.providers import SENDGRID, SID, TOKEN, TWILIO, WHATSAPP

SMTP = {"host": "mail.example.com", "from": "shop@example.com", "username": "shop", "password": "open sesame"}
SERVICE = "MG" + "0" * 32


# Fields


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("whatsapp", WHATSAPP),
        ("whatsapp", {**WHATSAPP, "api_version": "v25.0"}),
        ("twilio", TWILIO),
        ("twilio", {"account_sid": SID, "auth_token": "x", "messaging_service_sid": SERVICE}),
        ("twilio", {**TWILIO, "from": "MyShop"}),
        ("sendgrid", SENDGRID),
        ("sendgrid", {**SENDGRID, "region": "eu"}),
        ("sendgrid", {"api_key": "SG.x", "account": "apikey"}),
        ("smtp", SMTP),
        ("smtp", {"host": "10.1.2.3", "from": "Shop <shop@example.com>", "security": "none", "port": "2525"}),
    ],
)
def test_valid_fields_have_no_errors(kind: str, fields: Mapping[str, str]) -> None:
    assert KINDS[kind].errors(fields) == []


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("whatsapp", {"phone_number_id": "106540352242922"}, "access_token is required"),
        ("whatsapp", {**WHATSAPP, "phone_number_id": "+1555"}, "phone_number_id must be"),
        ("whatsapp", {**WHATSAPP, "api_version": "23"}, "api_version must be"),
        ("whatsapp", {**WHATSAPP, "token": "x"}, "token is unknown"),
        ("twilio", {**TWILIO, "account_sid": "AC1"}, "account_sid must be"),
        ("twilio", {**TWILIO, "messaging_service_sid": SERVICE}, "cannot be combined"),
        ("sendgrid", {"from": "shop@example.com"}, "api_key is required"),
        ("sendgrid", {**SENDGRID, "from": "shop"}, "from must be"),
        ("sendgrid", {**SENDGRID, "region": "us"}, "region must be"),
        ("smtp", {**SMTP, "security": "ssl"}, "security must be"),
        ("smtp", {**SMTP, "security": "none"}, "unencrypted"),
        ("smtp", {"host": "mail.example.com", "from": "me"}, "from must be"),
        ("smtp", {**SMTP, "port": "0"}, "port must be"),
        ("smtp", {**SMTP, "host": "mail example"}, "host must be"),
        ("smtp", {**SMTP, "ca": "no certificate"}, "ca must be"),
        ("smtp", {"host": "mail.example.com", "from": "a@example.com", "username": "me"}, "are required together"),
    ],
)
def test_an_invalid_field_has_an_error(kind: str, fields: Mapping[str, str], message: str) -> None:
    (error,) = KINDS[kind].errors(fields)
    assert message in error


def test_an_error_contains_no_secret() -> None:
    assert "hush hush" not in str(KINDS["whatsapp"].errors({**WHATSAPP, "access_token": "hush hush"}))


def test_secrets_are_masked_and_long_texts_shown_by_size(tmp_path: Path) -> None:
    ca = certificate_of(a_certificate(tmp_path))
    shown = KINDS["smtp"].masked({**SMTP, "ca": ca})
    assert shown["password"] == "***"
    assert shown["username"] == "shop"
    assert shown["ca"] == f"({len(ca)} characters)"


@pytest.mark.parametrize(("more", "port"), [({}, 587), ({"security": "tls"}, 465), ({"security": "none"}, 25)])
def test_the_default_port_depends_on_the_security(more: dict[str, str], port: int) -> None:
    assert smtp_port(more) == port
    assert smtp_port({**more, "port": "2525"}) == 2525


# Storage


def opened(context: AppContext, sender: Sender, kind: str) -> dict[str, str] | None:
    """The fields that a worker reads."""
    return integrations.open_integration(context, integrations.find_outbound_config(context, sender.account_id), kind)


def stored(context: AppContext, sender: Sender) -> bytes:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT settings FROM integrations WHERE account_id = %(id)s", {"id": sender.account_id}
        ).scalar_one()
    return bytes(found)


def test_a_worker_reads_the_fields_that_were_set(context: AppContext, acme: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], WHATSAPP)
    assert opened(context, acme, "whatsapp") == WHATSAPP
    assert opened(context, acme, "twilio") is None


def test_another_account_does_not_have_the_integration(context: AppContext, acme: Sender, globex: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], WHATSAPP)
    assert opened(context, globex, "whatsapp") is None
    assert integrations.list_integrations(context, globex.account_id) == []


def test_the_database_contains_no_unencrypted_secret(context: AppContext, acme: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], WHATSAPP)
    assert TOKEN.encode() not in stored(context, acme)


def test_setting_some_fields_changes_only_these(context: AppContext, acme: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], {**WHATSAPP, "api_version": "v25.0"})
    integrations.set_integration(
        context, acme.account_id, KINDS["whatsapp"], {"access_token": "another", "api_version": ""}
    )
    assert opened(context, acme, "whatsapp") == {**WHATSAPP, "access_token": "another"}


@pytest.mark.parametrize("change", [{"host": "evil.example"}, {"port": "2525"}, {"security": "tls"}])
def test_another_address_needs_the_secret_again(context: AppContext, acme: Sender, change: dict[str, str]) -> None:
    before = {"host": "mail.example.com", "from": "a@example.com", "username": "shop", "password": "hush hush"}
    integrations.set_integration(context, acme.account_id, KINDS["smtp"], before)
    with pytest.raises(Problem, match="another address needs password again"):
        integrations.set_integration(context, acme.account_id, KINDS["smtp"], change)
    assert opened(context, acme, "smtp") == before
    integrations.set_integration(context, acme.account_id, KINDS["smtp"], {**change, "password": "hush"})
    assert opened(context, acme, "smtp") == {**before, **change, "password": "hush"}


def test_invalid_fields_change_nothing(context: AppContext, acme: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], WHATSAPP)
    with pytest.raises(Problem, match="access_token is required"):
        integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], {"access_token": ""})
    assert opened(context, acme, "whatsapp") == WHATSAPP


def test_a_removed_integration_is_deleted(context: AppContext, acme: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], WHATSAPP)
    integrations.remove_integration(context, acme.account_id, KINDS["whatsapp"])
    assert opened(context, acme, "whatsapp") is None
    with pytest.raises(Problem, match="has no whatsapp integration"):
        integrations.remove_integration(context, acme.account_id, KINDS["whatsapp"])


def with_keys(context: AppContext, *keys: str) -> AppContext:
    """The same app context with other encryption keys."""
    return AppContext(replace(context.settings, encryption_keys=keys))


def test_after_rotation_the_new_key_decrypts_everything_alone(context: AppContext, acme: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], WHATSAPP)
    (old,), new = context.settings.encryption_keys, Fernet.generate_key().decode()
    signing = accounts.show_signing_secret(context, acme.account_id)
    both, alone = with_keys(context, new, old), with_keys(context, new)
    try:
        rotated = integrations.rotate_secrets(both)
        assert rotated.count >= 2
        assert rotated.undecryptable == ()
        assert opened(alone, acme, "whatsapp") == WHATSAPP
        assert accounts.show_signing_secret(alone, acme.account_id) == signing
    finally:
        integrations.rotate_secrets(with_keys(context, old, new))


def test_rotation_reports_what_no_key_decrypts_and_leaves_it_unchanged(context: AppContext, acme: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], WHATSAPP)
    before = stored(context, acme)
    stranger = with_keys(context, Fernet.generate_key().decode())
    rotated = integrations.rotate_secrets(stranger)
    assert f"signing secret of {acme.slug}" in rotated.undecryptable
    assert f"whatsapp of account {acme.account_id}" in rotated.undecryptable
    assert stored(context, acme) == before
    (shown,) = integrations.list_integrations(stranger, acme.account_id)
    assert shown.fields is None


def test_listed_integrations_have_masked_secrets(context: AppContext, acme: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["twilio"], TWILIO)
    (shown,) = integrations.list_integrations(context, acme.account_id)
    assert shown.fields == {**TWILIO, "auth_token": "***"}
    assert TWILIO["auth_token"] not in json.dumps(dict(shown.fields))


# Targets


def test_a_disabled_target_is_listed_until_it_is_enabled(context: AppContext, acme: Sender, globex: Sender) -> None:
    target = "https://example.com/hook"
    integrations.disable_target(context, acme.account_id, target, "answered 410", uuid4())
    integrations.disable_target(context, acme.account_id, target, "again", uuid4())
    assert integrations.find_outbound_config(context, acme.account_id).disabled == {target: "answered 410"}
    assert integrations.find_outbound_config(context, globex.account_id).disabled == {}
    integrations.enable_target(context, acme.account_id, target)
    assert integrations.find_outbound_config(context, acme.account_id).disabled == {}
    with pytest.raises(Problem, match="is not disabled"):
        integrations.enable_target(context, acme.account_id, target)
