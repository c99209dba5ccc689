"""The application finds its routes as Flask does, and answers in one go are answered as others are."""

from __future__ import annotations

from itertools import product

import pytest
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder

from app import create_app
from app.api.flask_app import Application
from app.services.context import AppContext

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.fixture
def application(context: AppContext) -> Application:
    made = create_app(context.settings)
    assert isinstance(made, Application)
    return made


def paths(application: Application) -> list[str]:
    written = [
        rule.rule.replace("<tenant>", "acme").replace("<name>", "orders") for rule in application.url_map.iter_rules()
    ]
    return sorted(
        {*written, *(f"{path}/" for path in written), *(path.upper() for path in written), "/", "//", "/health//", ""}
    )


def test_every_route_is_found_with_a_known_host_as_with_an_unknown_one(application: Application) -> None:
    adapter = application.url_map.bind("localhost")
    by_itself = 0
    for path, method in product(paths(application), METHODS):
        try:
            expected = adapter.match(path, method, return_rule=True)
        except HTTPException as refusal:
            expected = type(refusal)
        for _ in range(2):
            flask_context = application.request_context(
                EnvironBuilder(path, method=method, base_url="http://localhost").get_environ()
            )
            with flask_context:
                asked = flask_context.request
                refused = asked.routing_exception
                assert (type(refused) if refused else (asked.url_rule, asked.view_args)) == expected, (method, path)
        by_itself += flask_context.url_adapter is None
    assert by_itself > 5


def test_a_host_that_is_none_is_refused_however_often_it_comes(application: Application) -> None:
    client = application.test_client()
    assert client.get("/health").status_code == 200
    for host in ("a..b", "x" * 64, "a..b"):
        refused = client.get("/health", headers={"Host": host})
        assert (refused.status_code, refused.mimetype) == (400, "application/problem+json")


def test_hosts_are_not_remembered_without_end(application: Application) -> None:
    client = application.test_client()
    for number in range(1_100):
        assert client.get("/health", headers={"Host": f"host{number}.example"}).status_code == 200
    assert len(application._hosts) == 1_000
