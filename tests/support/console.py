"""Users of the console, and browsers without a window: Flask's test client with cookies and CSRF tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.core.models import VIEWER
from app.services import accounts, users
from app.services.context import AppContext
from tests.support.builders import Sender

PASSWORD = "correct horse battery"
_CSRF = re.compile(r'name="csrf_token"[^>]*value="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Browser:
    """A client that keeps cookies, sends forms with their CSRF token, and knows whose it is."""

    client: FlaskClient
    email: str

    def get(self, path: str, **options: Any) -> TestResponse:
        """A page of the console; `path` begins after /console."""
        return self.client.get("/console" + path, **options)

    def post(self, path: str, form_of: str, **fields: Any) -> TestResponse:
        """Send a form of the page `form_of`."""
        token = csrf_token(self.get(form_of))
        return self.client.post("/console" + path, data={"csrf_token": token, **fields})


def csrf_token(page: TestResponse) -> str:
    """The CSRF token of the first form of a page."""
    found = _CSRF.search(page.text)
    assert found is not None, page.text
    return found[1]


def sign_in(app: Flask, email: str, password: str = PASSWORD) -> Browser:
    """A new browser in which the user has signed in."""
    browser = Browser(app.test_client(), email)
    answer = browser.post("/sign-in", "/sign-in", email=email, password=password)
    assert answer.status_code == 302, answer.text
    assert urlsplit(answer.location).path == "/console/"
    return browser


def a_user(context: AppContext, sender: Sender | None, role: str = VIEWER, **options: Any) -> str:
    """A new user with a role in the sender's account; the email address."""
    email = f"{role}-{uuid4().hex[:12]}@example.com"
    account = None if sender is None else accounts.find_account(context, sender.slug)
    users.create_user(context, email, PASSWORD, role=None if account is None else (account, role), **options)
    return email
