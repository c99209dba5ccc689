"""Signing in to the console: cookies, sessions, and who is kept out."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask import Flask

from app.db.connection import run_sql
from app.services import users
from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.console import PASSWORD, Browser, a_user, csrf_token, sign_in


def test_a_page_leads_to_the_sign_in_page_and_back(app: Flask, context: AppContext, acme: Sender) -> None:
    email = a_user(context, acme)
    browser = Browser(app.test_client(), email)
    wanted = browser.get(f"/{acme.slug}/keys?after=a")
    assert wanted.status_code == 302
    page = browser.client.get(wanted.location)
    answer = browser.client.post(
        wanted.location, data={"csrf_token": csrf_token(page), "email": email, "password": PASSWORD}
    )
    assert answer.location == f"/console/{acme.slug}/keys?after=a"
    assert browser.client.get(answer.location).status_code == 200


@pytest.mark.parametrize(
    "next_page",
    [
        "https://example.com/",
        "//example.com/",
        "/\\example.com",
        "/console/\\example.com",
        "javascript:alert(1)",
        "/api",
    ],
    ids=str,
)
def test_signing_in_never_leads_to_another_site(app: Flask, context: AppContext, acme: Sender, next_page: str) -> None:
    email = a_user(context, acme)
    browser = Browser(app.test_client(), email)
    token = csrf_token(browser.get("/sign-in"))
    answer = browser.client.post(
        "/console/sign-in",
        query_string={"next": next_page},
        data={"csrf_token": token, "email": email, "password": PASSWORD},
    )
    assert answer.location == "/console/"


def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(
    app: Flask, context: AppContext, acme: Sender
) -> None:
    browser = Browser(app.test_client(), "")
    texts = set()
    for email, password in ((a_user(context, acme), "wrong password"), ("nobody@example.com", PASSWORD)):
        answer = browser.post("/sign-in", "/sign-in", email=email, password=password)
        assert answer.status_code == 422
        texts.add(answer.text.replace(email, "").replace(csrf_token(answer), ""))
    assert len(texts) == 1
    assert "The email address or the password is wrong." in texts.pop()


def test_a_disabled_user_cannot_sign_in_and_is_signed_out(app: Flask, context: AppContext, acme: Sender) -> None:
    email = a_user(context, acme)
    browser = sign_in(app, email)
    users.switch_user(context, email, on=False)
    assert browser.get("/profile").status_code == 302
    assert browser.post("/sign-in", "/sign-in", email=email, password=PASSWORD).status_code == 422
    users.switch_user(context, email, on=True)
    assert browser.get("/profile").status_code == 302


def test_the_cookie_has_all_flags(app: Flask, context: AppContext, acme: Sender) -> None:
    email = a_user(context, acme)
    for scheme in ("http", "https"):
        browser = Browser(app.test_client(), email)
        fields = {"X-Forwarded-Proto": scheme}
        page = browser.client.get("/console/sign-in", headers=fields)
        answer = browser.client.post(
            "/console/sign-in",
            data={"csrf_token": csrf_token(page), "email": email, "password": PASSWORD},
            headers={**fields, "Cookie": page.headers["Set-Cookie"].partition(";")[0]},
        )
        assert answer.status_code == 302, answer.text
        flags = answer.headers["Set-Cookie"].split("; ")[1:]
        expected = {"HttpOnly", "SameSite=Lax", "Path=/console"} | ({"Secure"} if scheme == "https" else set())
        assert {flag for flag in flags if not flag.startswith("Expires=")} == expected


def test_signing_in_makes_a_new_session_and_forgets_the_old_cookie(
    app: Flask, context: AppContext, acme: Sender
) -> None:
    first, second = a_user(context, acme), a_user(context, acme)
    browser = sign_in(app, first)
    before = browser.client.get_cookie("signalbox_console", path="/console")
    assert browser.post("/sign-out", "/profile").status_code == 302
    browser.post("/sign-in", "/sign-in", email=second, password=PASSWORD)
    assert second in browser.get("/profile").text
    # Who has kept the cookie of the first session is signed out.
    assert before is not None
    stolen = app.test_client()
    stolen.set_cookie("signalbox_console", before.value, path="/console")
    assert stolen.get("/console/profile").status_code == 302


def test_a_session_ends_when_it_is_old_or_unused(app: Flask, context: AppContext, acme: Sender) -> None:
    sign_in(app, a_user(context, acme))
    for column, age in (("created_at", users.MAX_SESSION), ("seen_at", users.MAX_IDLE)):
        browser = sign_in(app, a_user(context, acme))
        for change, status in ((age - timedelta(minutes=5), 200), (age + timedelta(minutes=5), 302)):
            with context.database.transaction() as connection:
                run_sql(
                    connection,
                    f"UPDATE user_sessions SET {column} = :at FROM users WHERE users.id = user_id AND email = :email",
                    {"at": context.clock() - change, "email": browser.email},
                )
            listed = users.list_sessions(context, users.find_user(context, browser.email))
            assert (browser.get("/profile").status_code, len(listed)) == (status, int(status == 200))


def test_a_user_sees_and_ends_sessions(app: Flask, context: AppContext, acme: Sender) -> None:
    email = a_user(context, acme)
    here, there = sign_in(app, email), sign_in(app, email)
    user = users.find_user(context, email)
    other = users.list_sessions(context, user)[0].id
    assert here.get("/profile").text.count("<td>127.0.0.1</td>") == 2
    ending = there if str(other) in here.get("/profile").text else here
    keeping = here if ending is there else there
    assert keeping.post(f"/profile/sessions/{other}/end", "/profile").status_code == 302
    assert ending.get("/profile").status_code == 302
    assert keeping.get("/profile").status_code == 200


def test_a_new_password_ends_all_other_sessions(app: Flask, context: AppContext, acme: Sender) -> None:
    email = a_user(context, acme)
    here, there = sign_in(app, email), sign_in(app, email)
    fields = {"current": PASSWORD, "new": "another long one", "again": "another long one"}
    refused = here.post("/profile/password", "/profile", **{**fields, "current": "not this one"})
    assert "This is not your current password." in refused.text
    assert here.post("/profile/password", "/profile", **fields).status_code == 302
    assert (here.get("/profile").status_code, there.get("/profile").status_code) == (200, 302)
    sign_in(app, email, "another long one")


def test_attempts_are_limited_by_user_and_by_address(app: Flask, context: AppContext, acme: Sender) -> None:
    email = a_user(context, acme)
    browser = Browser(app.test_client(), email)
    statuses = [
        browser.post("/sign-in", "/sign-in", email=email, password="wrong password").status_code for _ in range(11)
    ]
    assert statuses == [422] * 10 + [429]
    # The right password does not help meanwhile, and other users of the address have ten attempts left.
    assert browser.post("/sign-in", "/sign-in", email=email, password=PASSWORD).status_code == 429
    statuses = [
        browser.post("/sign-in", "/sign-in", email=f"{number}@example.com", password="wrong").status_code
        for number in range(10)
    ]
    assert 429 in statuses


def test_the_password_is_stored_as_argon2(context: AppContext, acme: Sender) -> None:
    email = a_user(context, acme)
    with context.database.transaction() as connection:
        stored = run_sql(connection, "SELECT password_hash FROM users WHERE email = :email", {"email": email}).scalar()
    assert str(stored).startswith("$argon2id$v=19$")
