"""Fixtures for the tests of the console: browsers in which users with each role are signed in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from playwright.sync_api import Browser as ChromiumBrowser

from app.api.route_limits import limiter, start_limiter
from app.core.models import EDITOR, OWNER, VIEWER
from app.services.context import AppContext
from tests.support.browser import a_chromium, a_console_server
from tests.support.builders import Sender
from tests.support.console import Browser, a_user, sign_in
from tests.support.server import Server


@pytest.fixture(scope="module")
def chromium() -> Iterator[ChromiumBrowser]:
    """Debian's Chromium."""
    with a_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def console_server(context: AppContext) -> Iterator[Server]:
    """gunicorn with the console."""
    with a_console_server(context) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_limits(app: Flask) -> Iterator[None]:
    """The attempts of earlier tests do not count."""
    with app.app_context():
        start_limiter()
    limiter.reset()
    yield


@pytest.fixture
def owner(app: Flask, context: AppContext, acme: Sender) -> Browser:
    """An owner of acme."""
    return sign_in(app, a_user(context, acme, OWNER))


@pytest.fixture
def editor(app: Flask, context: AppContext, acme: Sender) -> Browser:
    """An editor of acme."""
    return sign_in(app, a_user(context, acme, EDITOR))


@pytest.fixture
def viewer(app: Flask, context: AppContext, acme: Sender) -> Browser:
    """A viewer of acme."""
    return sign_in(app, a_user(context, acme, VIEWER))


@pytest.fixture
def operator(app: Flask, context: AppContext) -> Browser:
    """An operator, without a role in any account."""
    return sign_in(app, a_user(context, None, is_operator=True))
