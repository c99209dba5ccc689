"""`/livez` and `/readyz`: what load balancers see, and who sees the details."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from app import create_app
from app.core import config
from app.services import readiness
from tests.support.server import Server

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture(scope="module")
def app_with(database_url: str) -> Callable[..., Flask]:
    """Applications by their settings."""
    made: dict[tuple[tuple[str, str], ...], Flask] = {}

    def make(**settings: str) -> Flask:
        key = tuple(sorted(settings.items()))
        if key not in made:
            environment = {"DATABASE_URL": database_url, "LOG_LEVEL": "error", **settings}
            made[key] = create_app(config.from_environment(environment))
        return made[key]

    return make


def _get(app: Flask, path: str, address: str | None = "127.0.0.1", forwarded: str | None = None) -> Any:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    return app.test_client().get(path, headers=headers, environ_base={"REMOTE_ADDR": address or ""})


def test_livez_asks_nobody(app_with: Callable[..., Flask]) -> None:
    answer = _get(app_with(DATABASE_URL=NOWHERE), "/livez")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_readyz_is_503_only_while_events_cannot_be_stored(app_with: Callable[..., Flask]) -> None:
    answer = _get(app_with(DATABASE_URL=NOWHERE), "/readyz")
    assert (answer.status_code, answer.json) == (503, {"status": "unavailable", "failing": ["postgres"]})
    assert answer.headers["Retry-After"] == "5"
    # There is no worker, and no key.
    answer = _get(app_with(), "/readyz")
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert "workers" in answer.json["failing"]


def test_verbose_shows_all_checks_and_how_long_they_took(app_with: Callable[..., Flask]) -> None:
    document = _get(app_with(), "/readyz?verbose").json
    assert document["status"] == "degraded"
    assert document["checked_at"].endswith("Z")
    checks = {check["name"]: check for check in document["checks"]}
    assert [*checks] == [name for name in readiness.NAMES if name != "redis"]
    assert checks["workers"]["detail"] == "no worker is alive"
    assert checks["postgres"]["state"] == "ok"
    assert all(isinstance(check["seconds"], float) for check in checks.values())


@pytest.mark.parametrize(
    ("proxies", "address", "forwarded", "is_operator"),
    [
        # Without the setting a proxy on this machine is trusted.
        ("", "127.0.0.1", None, True),
        ("", None, None, True),
        ("", "127.0.0.1", "203.0.113.9", False),
        ("", None, "203.0.113.9", False),
        ("", "127.0.0.1", "127.0.0.1, 203.0.113.9", False),
        ("", "127.0.0.1", "10.1.2.3", True),
        ("", "203.0.113.9", "127.0.0.1", False),
        ("0", "127.0.0.1", None, True),
        ("0", "::1", None, True),
        ("0", "::ffff:127.0.0.1", None, True),
        ("0", None, None, True),
        ("0", "203.0.113.9", None, False),
        ("0", "10.1.2.3", None, True),
        ("0", "::ffff:10.1.2.3", None, True),
        # nginx on this machine, which is not trusted: anybody may be behind it.
        ("0", "127.0.0.1", "203.0.113.9", False),
        ("0", "127.0.0.1", "127.0.0.1", False),
        ("0", None, "127.0.0.1", False),
        ("0", "127.0.0.1", "", False),
        ("1", "127.0.0.1", None, True),
        ("1", "127.0.0.1", "203.0.113.9", False),
        ("1", "127.0.0.1", "127.0.0.1", True),
        ("1", "127.0.0.1", "10.1.2.3", True),
        ("1", None, "10.1.2.3", True),
        # What the client sent itself.
        ("1", "127.0.0.1", "127.0.0.1, 203.0.113.9", False),
        ("2", "127.0.0.1", "203.0.113.9, 10.0.0.1", False),
        ("2", "127.0.0.1", "127.0.0.1, 10.0.0.1", True),
        # One of the two proxies was passed by.
        ("2", "127.0.0.1", "203.0.113.9", False),
        ("1", "127.0.0.1", "nonsense", False),
    ],
)
def test_details_are_for_this_machine_and_operators(
    app_with: Callable[..., Flask], proxies: str, address: str | None, forwarded: str | None, is_operator: bool
) -> None:
    app = app_with(TRUSTED_PROXIES=proxies, OPERATOR_NETWORKS="10.1.2.0/24")
    document = _get(app, "/readyz?verbose", address, forwarded).json
    assert ("checks" in document) is is_operator
    assert {"status", "failing"} <= document.keys()


def test_others_see_the_short_form_without_details(app_with: Callable[..., Flask]) -> None:
    answer = _get(app_with(DATABASE_URL=NOWHERE), "/readyz?verbose", "203.0.113.9")
    assert answer.json == {"status": "unavailable", "failing": ["postgres"]}


def test_gunicorn_answers_both(server: Server) -> None:
    assert server.open("/livez").status_code == 200
    answer = server.open("/readyz?verbose")
    assert answer.status_code == 200
    assert {check["name"] for check in answer.json["checks"]} == {*readiness.NAMES} - {"redis"}
