"""What gunicorn and its web processes write is JSON, line by line."""

from __future__ import annotations

import json

from app.services.context import AppContext
from tests.api.conftest import settings_of
from tests.support.server import running_server


def test_each_line_of_gunicorn_and_the_web_process_is_json(context: AppContext) -> None:
    with running_server(**settings_of(context), LOG_LEVEL="info", ACCESS_LOG="1") as server:
        answer = server.open("/version?token=secret-token")
        lines = [json.loads(line) for line in server.output().splitlines()]
    events = [line["event"] for line in lines]
    assert any(event.startswith("Starting gunicorn") for event in events)
    assert any(event.startswith("Booting worker with pid") for event in events)
    assert all({"level", "timestamp"} <= line.keys() for line in lines)
    (request,) = [line for line in lines if line.get("route") == "/version"]
    assert request["request_id"] == answer.headers["X-Request-Id"]
    assert "secret-token" not in str(lines)


def test_text_is_text(context: AppContext) -> None:
    with running_server(**settings_of(context), LOG_LEVEL="info", LOG_FORMAT="text") as server:
        assert "[info     ] Starting gunicorn" in server.output()
