"""Requests that Flask refuses by itself get problem documents."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.builders import Sender, an_event


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_an_invalid_host_is_refused_however_often_it_comes(client: FlaskClient, host: str) -> None:
    assert client.get("/health").status_code == 200
    for _ in range(2):
        refused = client.get("/health", headers={"Host": host})
        assert (refused.status_code, refused.mimetype) == (400, "application/problem+json")


def test_every_response_is_kept_by_no_cache_and_not_guessed_at(app: Flask, client: FlaskClient, acme: Sender) -> None:
    answers = [acme.post(an_event()), acme.post({"event": ""}), client.get("/health"), client.get("/nowhere")]
    assert [answer.status_code for answer in answers] == [200, 422, 200, 404]
    for rule in app.url_map.iter_rules():
        answers += [
            client.open(rule.rule, method=method, json={}) for method in sorted((rule.methods or set()) - {"OPTIONS"})
        ]
    for answer in answers:
        assert [value for name, value in answer.headers.items() if name == "Cache-Control"] == ["no-store"]
        assert [value for name, value in answer.headers.items() if name == "X-Content-Type-Options"] == ["nosniff"]
