"""The server changes gunicorn's worker by public names only, those that decision 27 lists."""

from __future__ import annotations

import pytest

from app.api.server.gunicorn_worker import Server, Worker
from app.api.server.request_handler import RequestHandler

HANDLER = {
    "MessageClass",
    "get_environ",
    "handle_error",
    "handle_one_request",
    "handle_one_response",
    "log_request",
    "process_result",
    "read_request",
    "start_response",
}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (RequestHandler, HANDLER),
        (Server, {"do_read", "handle", "update_environ"}),
        (Worker, {"notify", "run", "wsgi_handler"}),
    ],
)
def test_only_the_listed_names_are_overridden(kind: type, names: set[str]) -> None:
    of_bases = {name for base in kind.__mro__[1:] for name in vars(base)}
    assert {name for name in vars(kind) if name in of_bases and not name.startswith("__")} == names
