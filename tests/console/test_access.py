"""Who may open which page, for every route of the console: the tests read the routes, so that a new one cannot be forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from werkzeug.routing import Rule

from app.console.application import create_console
from app.core.config import from_environment
from app.core.models import EDITOR, OWNER, ROLES
from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.console import Browser, a_user, sign_in

# The pages for everybody: signing in, files, and the reference of the API, which has nothing of accounts.
OPEN = {"sign_in", "do_sign_in", "static", "bootstrap.static", "reference.show"}

# Who may change something: what these blueprints and this route change belongs to owners, everything else to editors.
OF_OWNERS = {"api_keys", "clients", "integrations", "settings", "subjects.erase"}


def _console() -> Flask:
    host = Flask("host")
    settings = from_environment({"DATABASE_URL": "postgresql://nobody@127.0.0.1/none"})
    # `make run` may have left a key in the folder.
    host.extensions["context"] = AppContext(replace(settings, encryption_keys=()))
    return create_console(host)


CONSOLE = _console()
RULES = sorted(CONSOLE.url_map.iter_rules(), key=lambda rule: rule.endpoint)
OF_ACCOUNTS = [rule for rule in RULES if "account" in rule.arguments]


def _name(rule: Rule) -> str:
    return rule.endpoint


def _method(rule: Rule) -> str:
    return "POST" if "POST" in (rule.methods or ()) else "GET"


def _path(rule: Rule, account: str) -> str:
    values: dict[str, Any] = {name: UUID(int=1) if name.endswith("_id") else "x" for name in rule.arguments}
    found = CONSOLE.url_map.bind("").build(rule.endpoint, {**values, "account": account}, method=_method(rule))
    return str(found)


def _call(browser: Browser, rule: Rule, account: str) -> int:
    """The status of a route, called with a right CSRF token."""
    path = _path(rule, account)
    if _method(rule) == "GET":
        return browser.get(path).status_code
    return browser.post(path, "/profile").status_code


@pytest.mark.parametrize("rule", RULES, ids=_name)
def test_a_page_needs_a_user(app: Flask, rule: Rule) -> None:
    browser = Browser(app.test_client(), "")
    if rule.endpoint in OPEN:
        return
    path = _path(rule, "acme")
    answer = browser.get(path) if _method(rule) == "GET" else browser.post(path, "/sign-in")
    assert answer.status_code == 302
    assert answer.location.startswith("/console/sign-in")


@pytest.mark.parametrize("rule", [rule for rule in RULES if _method(rule) == "POST"], ids=_name)
def test_a_form_needs_its_csrf_token(app: Flask, context: AppContext, acme: Sender, rule: Rule) -> None:
    browser = sign_in(app, a_user(context, acme, OWNER))
    answer = browser.client.post("/console" + _path(rule, acme.slug), data={})
    assert answer.status_code == 400
    assert "The form has expired" in answer.text


@pytest.mark.parametrize("rule", OF_ACCOUNTS, ids=_name)
def test_another_account_does_not_exist(
    app: Flask, context: AppContext, acme: Sender, globex: Sender, rule: Rule
) -> None:
    browser = sign_in(app, a_user(context, acme, OWNER))
    assert _call(browser, rule, globex.slug) == 404
    assert _call(browser, rule, "no-such-account") == 404


@pytest.mark.parametrize("rule", OF_ACCOUNTS, ids=_name)
def test_a_role_below_the_needed_one_is_refused(app: Flask, context: AppContext, acme: Sender, rule: Rule) -> None:
    needed = ROLES.index(CONSOLE.view_functions[rule.endpoint].needed_role)  # type: ignore[attr-defined]
    for role in ROLES[needed + 1 :]:
        assert _call(sign_in(app, a_user(context, acme, role)), rule, acme.slug) == 403
    assert _call(sign_in(app, a_user(context, acme, ROLES[needed])), rule, acme.slug) not in (403, 500, 503)


@pytest.mark.parametrize("rule", [rule for rule in OF_ACCOUNTS if _method(rule) == "POST"], ids=_name)
def test_what_changes_something_needs_the_role_that_may_change_it(rule: Rule) -> None:
    of_owners = {rule.endpoint, rule.endpoint.partition(".")[0]} & OF_OWNERS
    needed = CONSOLE.view_functions[rule.endpoint].needed_role  # type: ignore[attr-defined]
    assert needed == (OWNER if of_owners else EDITOR)


@pytest.mark.parametrize("path", ["source/a%00b", "sources?after=a%00b", "workflows/edit?name=a%00b"])
def test_a_url_with_a_text_that_postgres_cannot_have_is_refused(owner: Browser, acme: Sender, path: str) -> None:
    answer = owner.get(f"/{acme.slug}/{path}")
    assert answer.status_code == 400
    assert "NUL character" in answer.text


def test_a_form_with_a_text_that_postgres_cannot_have_is_refused(owner: Browser, acme: Sender) -> None:
    assert owner.post(f"/{acme.slug}/workflow/enable", "/profile", name="a\0b", version="1").status_code == 400


def test_every_answer_has_the_security_fields_and_leads_to_no_other_host(owner: Browser, acme: Sender) -> None:
    for rule in sorted(RULES, key=lambda rule: rule.endpoint == "sign_out"):
        path = f"{_path(rule, acme.slug)}?next=https://evil.example/"
        is_get = _method(rule) == "GET"
        answer = owner.get(path, buffered=True) if is_get else owner.post(path, "/profile", next="//evil.example")
        fields = answer.headers
        policy = fields["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'"), path
        assert "frame-ancestors 'none'" in policy, path
        assert (fields["X-Frame-Options"], fields["X-Content-Type-Options"]) == ("DENY", "nosniff"), path
        assert (answer.location or "/console/").startswith("/console/"), path


def test_every_page_is_closed_after_signing_out(app: Flask, context: AppContext, acme: Sender) -> None:
    browser = sign_in(app, a_user(context, acme, OWNER))
    cookie = browser.client.get_cookie("signalbox_console", path="/console")
    assert cookie is not None
    assert browser.post("/sign-out", "/profile").status_code == 302
    # Somebody has kept the cookie.
    browser.client.set_cookie("signalbox_console", cookie.value, path="/console")
    for rule in RULES:
        if rule.endpoint in OPEN:
            continue
        path = _path(rule, acme.slug)
        answer = browser.get(path) if _method(rule) == "GET" else browser.post(path, "/sign-in")
        assert (answer.status_code, answer.location[:16]) == (302, "/console/sign-in"), rule.endpoint


def test_pages_are_not_cached_and_files_are(app: Flask, owner: Browser, acme: Sender) -> None:
    assert owner.get(f"/{acme.slug}/").headers["Cache-Control"] == "no-store"
    assert "max-age=86400" in owner.get("/static/console.css", buffered=True).headers["Cache-Control"]


def test_without_an_encryption_key_the_page_says_so() -> None:
    answer = CONSOLE.test_client().get("/sign-in")
    assert answer.status_code == 503
    assert "ENCRYPTION_KEY is not set" in answer.text
