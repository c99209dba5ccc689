"""Requests that Flask refuses by itself get problem documents."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_an_invalid_host_is_refused_however_often_it_comes(client: FlaskClient, host: str) -> None:
    assert client.get("/health").status_code == 200
    for _ in range(2):
        refused = client.get("/health", headers={"Host": host})
        assert (refused.status_code, refused.mimetype) == (400, "application/problem+json")
