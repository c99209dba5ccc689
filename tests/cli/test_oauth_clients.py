"""`signalbox client …`, the CxEngage attributes of `signalbox account`, and ids in CxEngage's format."""

from __future__ import annotations

import json
import re

import pytest
from flask.testing import FlaskClient

from app.core.ids import cxengage_id, read_cxengage_id, uuid7
from app.core.models import PLANS
from app.services import accounts, api_keys
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender
from tests.support.cxengage_tenants import Tenant, a_tenant, uuid_of


@pytest.fixture
def tenant(context: AppContext, client: FlaskClient) -> Tenant:
    return a_tenant(context, client)


def created(signalbox: CommandLine, slug: str) -> tuple[str, str]:
    output = signalbox("client", "create", slug, "--name", "web shop").stdout
    found = re.fullmatch(r"client_id=(cl_\w{16})\nclient_secret=(cs_[\w-]{43})\n", output)
    assert found is not None, output
    return found[1], found[2]


def test_a_new_client_gets_a_token(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    client_id, secret = created(signalbox, acme.slug)
    assert issued(context, client_id, secret) is not None


def issued(context: AppContext, client_id: str, secret: str) -> api_keys.Token | None:
    """A token with all scopes of the client; None for a wrong secret or a revoked client."""
    found = api_keys.authenticate_client(context, client_id, secret)
    return found and api_keys.issue_token(context, found, secret, found.scopes)


def test_a_client_may_have_fewer_scopes(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    output = signalbox("client", "create", acme.slug, "--scopes", "events:read,events:write").stdout
    client_id, secret = re.findall(r"=(\S+)", output)
    found = api_keys.authenticate_client(context, client_id, secret)
    assert found is not None
    assert found.scopes == ("events:write", "events:read")
    assert "\tevents:write events:read\t" in signalbox("client", "list", acme.slug).stdout


@pytest.mark.parametrize("scopes", ["", "everything", "events:read everything"])
def test_a_client_with_an_unknown_scope_is_not_created(signalbox: CommandLine, acme: Sender, scopes: str) -> None:
    refused = signalbox("client", "create", acme.slug, "--scopes", scopes)
    assert (refused.exit_code, "expected events:write, events:read, account:manage" in refused.stderr) == (2, True)
    assert signalbox("client", "list", acme.slug).stdout == ""


def test_the_list_shows_clients_without_secrets(signalbox: CommandLine, acme: Sender, globex: Sender) -> None:
    client_id, secret = created(signalbox, acme.slug)
    created(signalbox, globex.slug)
    output = signalbox("client", "list", acme.slug).stdout
    assert (
        output == f"{acme.slug}\t{client_id}\tweb shop\tevents:write events:read account:manage\tactive\tnever used\n"
    )
    everybody = signalbox("client", "list", "--limit", "10000").stdout
    assert globex.slug in everybody
    assert secret not in everybody


def test_a_revoked_client_is_listed_as_revoked(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    client_id, secret = created(signalbox, acme.slug)
    assert client_id in signalbox("client", "revoke", client_id).stdout
    assert "\trevoked 2" in signalbox("client", "list", acme.slug).stdout
    assert issued(context, client_id, secret) is None
    again = signalbox("client", "revoke", client_id)
    assert (again.exit_code, "no active client" in again.stderr) == (1, True)


def test_an_account_can_be_created_with_attributes(signalbox: CommandLine, context: AppContext) -> None:
    slug = f"shop-{uuid7().hex[-12:]}"
    words = ("--name", "The Shop", "--key-attribute", "user", "--event-attribute", "what")
    assert signalbox("account", "create", slug, *words).exit_code == 0
    found = accounts.find_account(context, slug)
    assert found is not None
    assert (found.name, found.key_attribute, found.event_attribute) == ("The Shop", "user", "what")


def test_options_that_are_not_given_change_nothing(signalbox: CommandLine, acme: Sender) -> None:
    assert signalbox("account", "change", acme.slug, "--key-attribute", "user").stdout == (
        f"name={acme.slug}\nkey-attribute=user\nevent-attribute=type\nunusable-phone=refuse\ntime-zone=UTC\n"
    )
    assert signalbox("account", "change", acme.slug, "--name", "Acme").stdout == (
        "name=Acme\nkey-attribute=user\nevent-attribute=type\nunusable-phone=refuse\ntime-zone=UTC\n"
    )


def test_the_name_of_an_account_may_have_letters_that_are_joined(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    assert signalbox("account", "change", acme.slug, "--name", "शर्\u200dमा").exit_code == 0
    found = accounts.find_account(context, acme.slug)
    assert found is not None and found.name == "शर्\u200dमा"


@pytest.mark.parametrize("text", ["", "x" * 256, "a\nb"])
@pytest.mark.parametrize("option", ["--name", "--key-attribute", "--event-attribute"])
def test_an_invalid_text_changes_and_creates_nothing(
    signalbox: CommandLine, context: AppContext, acme: Sender, option: str, text: str
) -> None:
    changed = signalbox("account", "change", acme.slug, option, text)
    assert (changed.exit_code, "1 to 255 printable characters" in changed.stderr) == (1, True)
    assert signalbox("account", "create", "never-made", option, text).exit_code == 1
    assert accounts.find_account(context, "never-made") is None


def test_an_event_is_shown_and_replayed_by_its_cxengage_id(signalbox: CommandLine, tenant: Tenant) -> None:
    identifier = json.loads(tenant.post({"key": "1", "type": "bar"}).data)["id"]
    assert uuid_of(identifier) in signalbox("event", "show", identifier).stdout
    assert uuid_of(identifier) in signalbox("event", "replay", identifier, "--dry-run").stdout


def test_an_id_with_another_account_is_not_found(signalbox: CommandLine, context: AppContext, tenant: Tenant) -> None:
    identifier = json.loads(tenant.post({"key": "1"}).data)["id"]
    other = accounts.create_account(context, f"other-{uuid7().hex[-12:]}", PLANS["trial"])
    foreign = identifier.replace(f"EV{tenant.account_id}-", f"EV{other}-")
    assert signalbox("event", "show", foreign).exit_code == 1


def test_ids_can_be_converted_back() -> None:
    event_id = uuid7()
    assert read_cxengage_id(cxengage_id(11, event_id)) == (11, event_id)


@pytest.mark.parametrize(
    "text", ["", "EV11", "EV11-", "EV-1", "EV11-x", "EV11-1\n", "EV11-٣", f"EV1-{2**128}", "ev1-1"]
)
def test_other_texts_are_not_ids(signalbox: CommandLine, text: str) -> None:
    assert read_cxengage_id(text) is None
    assert signalbox("event", "show", text).exit_code == 2
