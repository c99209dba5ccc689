"""What is counted, timed and logged of a request."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import prometheus_client
import pytest
from flask import Flask

from app import create_app
from app.core import config
from app.core.metrics import BoundedLabel
from app.core.models import PLANS
from app.services import accounts, workflows
from app.services.context import AppContext
from tests.support.builders import a_sender, a_workflow, an_event
from tests.support.console import a_user, sign_in
from tests.support.server import clean_environment

ROOT = Path(__file__).resolve().parents[2]
EVENTS = "/api/v1/cvf-events"


def _value(name: str, **labels: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(name, labels) or 0.0


def test_each_response_is_timed_by_its_route(app: Flask) -> None:
    client = app.test_client()
    name = "signalbox_request_duration_seconds_count"
    routes = ("/version", "/tenants/<tenant>/event", "none", "/tenants/<tenant>/stream")
    before = [_value(name, route=route) for route in routes]
    client.get("/version")
    client.post("/tenants/acme/event", json={})
    client.post("/tenants/globex/event", json={})
    client.get("/somewhere/else")
    client.get("/tenants/acme/stream?ticket=unknown")
    after = [_value(name, route=route) for route in routes]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 2, 1, 1]


def test_pages_of_the_console_have_routes_of_their_own_and_request_ids(app: Flask) -> None:
    client = app.test_client()
    name = "signalbox_request_duration_seconds_count"
    # The management API has a route with the same endpoint as the page.
    routes = ("/console/sign-in", "/console/<account>/events/<uuid:event_id>/replay")
    before = [_value(name, route=route) for route in routes]
    client.post("/api/v1/manage/events/01a20154-90e0-75eb-90e3-fa42b2109aca/replay", json={})
    answer = client.get("/console/sign-in", headers={"X-Request-Id": "mine-8"})
    client.get("/console/acme/events/01a20154-90e0-75eb-90e3-fa42b2109aca/replay")
    assert answer.headers.getlist("X-Request-Id") == ["mine-8"]
    refused = [_value("signalbox_refused_requests_total", route="none", type="not-found")]
    client.get("/console/a/page/that/is/not/there")
    refused.append(_value("signalbox_refused_requests_total", route="none", type="not-found"))
    assert [_value(name, route=route) for route in routes] == [number + 1 for number in before]
    assert refused[1] == refused[0] + 1


@pytest.mark.parametrize(
    ("method", "path", "route", "type_", "status"),
    [
        ("POST", EVENTS, EVENTS, "invalid-api-key", "401"),
        ("GET", "/nowhere/secret", "none", "not-found", "404"),
        ("POST", "/1.0/tenants/acme/event", "/1.0/tenants/<tenant>/event", "invalid-access-token", "401"),
        ("POST", "/1.0/token", "/1.0/token", "invalid-api-key", "401"),
        ("GET", "/1.0/tenants/acme/stream?ticket=unknown", "/1.0/tenants/<tenant>/stream", "invalid-ticket", "401"),
    ],
)
def test_a_refusal_is_counted_by_route_and_type_and_by_status(
    app: Flask, method: str, path: str, route: str, type_: str, status: str
) -> None:
    def counts() -> list[float]:
        return [
            _value("signalbox_refused_requests_total", route=route, type=type_),
            _value("signalbox_refusals_total", status=status),
        ]

    before = counts()
    assert str(app.test_client().open(path, method=method).status_code) == status
    assert counts() == [number + 1 for number in before]


def test_requests_over_the_limit_are_counted_by_account(app: Flask, context: AppContext) -> None:
    sender = a_sender(context, app.test_client(), plan="trial")
    name, account = "signalbox_rate_limited_total", str(sender.account_id)
    accounts.change_plan(context, sender.account_id, PLANS["trial"], 1)
    statuses = [sender.post(an_event()).status_code for _ in range(20)]
    assert _value(name, account=account) == statuses.count(429) > 0


def test_refused_items_of_a_batch_are_counted_by_type(app: Flask, context: AppContext) -> None:
    sender = a_sender(context, app.test_client())
    name, type_ = "signalbox_refused_items_total", "validation-failed"
    before = _value(name, type=type_)
    assert sender.post_batch([an_event(), {}, an_event(event="")]).status_code == 207
    assert _value(name, type=type_) == before + 2


def test_a_label_has_a_limited_number_of_values() -> None:
    label = BoundedLabel(2)
    assert [label.of(value) for value in (7, 8, 9, 7, 10)] == ["7", "8", "other", "7", "other"]


def test_group_commits_and_the_matching_of_events_with_candidates_are_observed(app: Flask, context: AppContext) -> None:
    def counts() -> list[float]:
        return [_value("signalbox_group_commit_events_sum"), _value("signalbox_match_duration_seconds_count")]

    sender = a_sender(context, app.test_client())
    before = counts()
    workflows.apply_workflow(context, sender.account_id, a_workflow())
    sender.post(an_event())
    sender.post(an_event(event="nobody_looks_at_it"))
    assert counts() == [before[0] + 2, before[1] + 1]


LOGGED = """
import sys
from app import create_app
client = create_app().test_client()
headers = {"x-limechat-uat": "sb_abcdefgh_" + "x" * 43, "x-fb-account-id": "1", "X-Request-Id": "mine-7"}
body = {"event": "e", "phone": "+915673412780", "distinct_id": "915673412780"}
client.post("/api/v1/cvf-events", json=body, headers=headers)
client.post("/tenants/secret-tenant/event?token=secret-token", json=body)
client.get("/tenants/secret-tenant/stream?ticket=secret-ticket")
client.get("/livez")
client.get("/console/sign-in?email=secret")
"""


def _log_lines(**settings: str) -> list[dict[str, object]]:
    environment = clean_environment(
        DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", PYTHONPATH=str(ROOT), **settings
    )
    done = subprocess.run(
        [sys.executable, "-c", LOGGED], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert re.search("secret|915673412780|sb_abcdefgh", done.stderr) is None
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_lines_of_a_request_have_its_id() -> None:
    event, stream = _log_lines()
    assert (event["event"], event["request_id"]) == ("database unavailable", "mine-7")
    assert stream["event"] == "database unavailable for a message stream"
    assert stream["request_id"] not in ("mine-7", None)


def test_each_request_has_a_line_only_when_asked_and_no_path() -> None:
    lines = [line for line in _log_lines(ACCESS_LOG="1") if line["event"] == "request"]
    assert [(line["method"], line["route"], line["status"], line["account"]) for line in lines] == [
        ("POST", EVENTS, 503, None),
        ("POST", "/tenants/<tenant>/event", 401, None),
        ("GET", "/tenants/<tenant>/stream", 200, None),
        ("GET", "/livez", 200, None),
        ("GET", "/console/sign-in", 503, None),
    ]
    assert lines[0]["request_id"] == "mine-7"
    assert all(isinstance(line["seconds"], float) for line in lines)


def test_the_line_of_a_request_names_the_account(
    database_url: str, context: AppContext, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "0" * 43 + "="
    app = create_app(config.from_environment({"DATABASE_URL": database_url, "ACCESS_LOG": "1", "ENCRYPTION_KEY": key}))
    sender = a_sender(context, app.test_client())
    browser = sign_in(app, a_user(context, sender))
    capsys.readouterr()
    sender.post(an_event())
    browser.get(f"/{sender.slug}/settings")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["route"], line["status"], line["account"]) for line in lines] == [
        ("request", EVENTS, 200, sender.account_id),
        ("request", "/console/<account>/settings", 200, sender.account_id),
    ]
