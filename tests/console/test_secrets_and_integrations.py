"""The pages of secrets and integrations: set, listed, removed, and never shown."""

from __future__ import annotations

from app.actions.integration_kinds import KINDS
from app.services import integrations, secrets, sources, workflows
from app.services.audit import EntryFilter, list_entries
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.console import Browser
from tests.support.run_execution import execute_run

VALUE = "a secret of the shop नमस्ते"
SOURCE = 'name: shop\nprovider: shopify\nsecrets: ["{{ secrets.SHOPIFY }}"]\n'
SMTP = {"host": "mail.example.com", "from": "shop@example.com", "username": "shop", "password": "hunter2-hunter2"}


def test_a_secret_is_set_listed_and_never_shown(context: AppContext, editor: Browser, acme: Sender) -> None:
    path = f"/{acme.slug}/secrets"
    assert "There is no secret yet." in editor.get(path).text
    assert editor.post(path, path, name="SHOPIFY", value=VALUE).status_code == 302
    page = editor.get(path).text
    assert "SHOPIFY is set." in page
    assert '<td class="text-break" dir="auto">nothing</td>' in page
    assert VALUE not in page
    assert secrets.find_values(context, acme.account_id, ["SHOPIFY"]) == {"SHOPIFY": VALUE}
    editor.post(path, path, name="SHOPIFY", value=VALUE + "2")
    assert "SHOPIFY is changed." in editor.get(path).text
    entry = list_entries(context, EntryFilter(account_id=acme.account_id, action="secret.set"), 1)[0]
    assert (entry.actor, entry.via, entry.object_id) == (editor.email, "console", "SHOPIFY")


def test_what_is_wrong_with_a_secret_is_said_at_its_field(editor: Browser, acme: Sender) -> None:
    path = f"/{acme.slug}/secrets"
    assert "At least 8 characters" in editor.get(path).text
    short = editor.post(path, path, name="SHOPIFY", value="<b>123")
    assert short.status_code == 422
    assert "the value must have at least 8 characters" in short.text
    assert "<b>123" not in short.text
    named = editor.post(path, path, name="<script>", value=VALUE)
    assert named.status_code == 422
    assert "is not a name of a secret" in named.text
    assert "<script>" not in named.text.replace("<script src=", "")
    assert VALUE not in named.text


def test_who_removes_a_secret_sees_what_uses_it(context: AppContext, editor: Browser, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    sources.apply_source(context, acme.account_id, SOURCE)
    step = {"http": {"method": "POST", "url": "https://example.com", "headers": {"X": "{{ secrets.SHOPIFY }}"}}}
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="call", steps=[step]))
    path = f"/{acme.slug}/secrets"
    assert "workflow call, source shop" in editor.get(path).text
    question = editor.get(f"{path}/SHOPIFY/remove").text
    assert "source shop</li>" in question
    assert "workflow call</li>" in question
    assert editor.post(f"{path}/SHOPIFY/remove", path).status_code == 302
    assert "SHOPIFY is removed. It was used by workflow call, source shop." in editor.get(path).text
    assert secrets.list_secrets(context, acme.account_id) == []
    assert editor.get(f"{path}/SHOPIFY/remove").status_code == 404


def test_a_viewer_sees_names_only(context: AppContext, viewer: Browser, acme: Sender, globex: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    secrets.set_secret(context, globex.account_id, "OF_GLOBEX", VALUE)
    page = viewer.get(f"/{acme.slug}/secrets").text
    assert "SHOPIFY" in page
    assert "OF_GLOBEX" not in page
    assert "Set secret" not in page
    assert "Remove" not in page
    assert f"/{acme.slug}/secrets" in viewer.get(f"/{acme.slug}/settings").text


def test_a_run_that_lacks_something_leads_to_where_it_is_set(
    context: AppContext, viewer: Browser, acme: Sender
) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    for page, step in (
        ("secrets", {"http": {"url": "https://example.com/{{ secrets.SHOPIFY }}"}}),
        ("integrations", {"sms": {"to": "{{ phone }}", "text": "hello"}}),
    ):
        workflows.apply_workflow(context, acme.account_id, a_workflow(name=page, on=page, steps=[step]))
    secrets.remove_secret(context, acme.account_id, "SHOPIFY", force=True)
    for page in ("secrets", "integrations"):
        run = acme.post(an_event(event=page)).get_json()["runs"][0]
        execute_run(context, acme.account_id, run)
        shown = viewer.get(f"/{acme.slug}/runs/{run}").text
        assert f'<a href="/console/{acme.slug}/{page}">Set it' in shown
        assert "signalbox" not in shown.partition("<main")[2].partition("</main>")[0]


def test_an_integration_is_set_up_and_its_password_is_never_shown(
    context: AppContext, owner: Browser, acme: Sender
) -> None:
    path = f"/{acme.slug}/integrations"
    assert owner.get(path).text.count("not set up") == len(KINDS)
    assert owner.post(f"{path}/smtp", f"{path}/smtp", **SMTP).status_code == 302
    page = owner.get(path).text
    assert "mail.example.com" in page
    assert SMTP["password"] not in page + owner.get(f"{path}/smtp").text
    config = integrations.find_outbound_config(context, acme.account_id)
    assert integrations.open_integration(context, config, "smtp") == SMTP


def test_an_empty_password_keeps_the_present_one(context: AppContext, owner: Browser, acme: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["smtp"], SMTP)
    path = f"/{acme.slug}/integrations/smtp"
    assert "Leave it empty to keep the present one." in owner.get(path).text
    owner.post(path, path, **{**SMTP, "from": "till@example.com", "password": ""})
    config = integrations.find_outbound_config(context, acme.account_id)
    assert integrations.open_integration(context, config, "smtp") == {**SMTP, "from": "till@example.com"}
    refused = owner.post(path, path, **{**SMTP, "host": "mx.example.com", "password": ""})
    assert (refused.status_code, "another address needs password again" in refused.text) == (422, True)
    without = {"host": "mx.example.com", "from": SMTP["from"], "remove-password": "1"}
    owner.post(path, path, **without)
    config = integrations.find_outbound_config(context, acme.account_id)
    assert integrations.open_integration(context, config, "smtp") == {"host": "mx.example.com", "from": SMTP["from"]}


def test_errors_of_an_integration_keep_what_was_typed_except_secrets(owner: Browser, acme: Sender) -> None:
    path = f"/{acme.slug}/integrations/smtp"
    hostile = '"><script>alert(1)</script>'
    answer = owner.post(path, path, **{**SMTP, "host": hostile})
    assert answer.status_code == 422
    assert "host must be the name of the mail server" in answer.text
    assert hostile not in answer.text
    assert 'value="shop@example.com"' in answer.text
    assert SMTP["password"] not in answer.text


def test_an_integration_is_removed_and_only_by_owners(
    context: AppContext, owner: Browser, editor: Browser, acme: Sender
) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["smtp"], SMTP)
    path = f"/{acme.slug}/integrations"
    assert "An owner of the account can set up integrations." in editor.get(path).text
    assert owner.post(f"{path}/smtp/remove", path).status_code == 302
    assert integrations.list_integrations(context, acme.account_id) == []
    assert owner.post(f"{path}/smtp/remove", path).status_code == 404
    assert owner.get(f"{path}/carrier-pigeon").status_code == 404


def test_a_workflow_says_which_integrations_its_steps_need(context: AppContext, owner: Browser, acme: Sender) -> None:
    sms = {"sms": {"to": "{{ phone }}", "text": "Hello"}}
    mail = {"email": {"to": "a@example.com", "subject": "Hello", "text": "Hello"}}
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="cart", steps=[sms, {"par": [[mail], [sms]]}]))
    path = f"/{acme.slug}/workflow?name=cart"
    assert "Steps that send with twilio or smtp fail: the account has not set them up." in owner.get(path).text
    integrations.set_integration(context, acme.account_id, KINDS["smtp"], SMTP)
    assert "Steps that send with twilio fail: the account has not set it up." in owner.get(path).text
    twilio = {"account_sid": f"AC{0:032d}", "auth_token": "a" * 32, "from": "+15005550006"}
    integrations.set_integration(context, acme.account_id, KINDS["twilio"], twilio)
    assert "fail: the account has not set" not in owner.get(path).text
