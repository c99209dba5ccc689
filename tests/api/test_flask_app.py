"""The application finds its routes as Flask does."""

from __future__ import annotations

from itertools import product

import pytest
from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# The last one has to be examined by Flask itself.
HOSTS = ("localhost", "xn--nxasmq6b.example:8000", "bücher.example")


def paths(app: Flask) -> list[str]:
    written = [rule.rule.replace("<tenant>", "acme").replace("<name>", "orders") for rule in app.url_map.iter_rules()]
    changed = {
        *(f"{path}/" for path in written),
        *(f"/{path}" for path in written),
        *(path.upper() for path in written),
    }
    return sorted({*written, *changed, "/", "//", "/health//", "", "/tenants/caf\u00e9/event", "/caf\u00e9"})


@pytest.mark.parametrize("host", HOSTS)
def test_every_route_is_found_as_flask_finds_it(app: Flask, host: str) -> None:
    for path, method in product(paths(app), METHODS):
        environ = EnvironBuilder(path, method=method, headers={"Host": host}).get_environ()
        with app.request_context(environ) as ours:
            found = ours.request
        expected = app.url_map.bind_to_environ(environ)
        try:
            rule, arguments = expected.match(return_rule=True)
        except HTTPException as exc:
            assert type(found.routing_exception) is type(exc), (method, path)
        else:
            assert (found.url_rule, found.view_args) == (rule, arguments), (method, path)


def test_a_path_that_is_not_utf8_is_not_found(app: Flask) -> None:
    environ = EnvironBuilder("/health").get_environ() | {"PATH_INFO": "/tenants/\xff/event"}
    with app.request_context(environ) as ours:
        assert ours.request.view_args in (None, {"tenant": "\ufffd"})


def test_a_session_cannot_be_written(app: Flask) -> None:
    from flask import session

    with app.test_request_context("/health"), pytest.raises(RuntimeError):
        session["user"] = 1
