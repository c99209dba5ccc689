"""The URL of a request as its sender called it."""

from __future__ import annotations

import pytest
from werkzeug.test import EnvironBuilder

from app.api.public_url import public_url


def _environ(peer: str, forwarded: str | None = "https") -> dict[str, object]:
    headers = {"Host": "events.example.com", **({} if forwarded is None else {"X-Forwarded-Proto": forwarded})}
    builder = EnvironBuilder("/hooks/abc?a=b%20c&d=%C3%A9", headers=headers, environ_base={"REMOTE_ADDR": peer})
    return builder.get_environ()


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted_proxies", "scheme"),
    [
        ("10.0.0.1", "https", 1, "https"),
        ("10.0.0.1", "http, HTTPS", 2, "https"),
        ("127.0.0.1", "https", None, "https"),
        ("", "https", None, "https"),
        ("10.0.0.1", "https", None, "http"),
        ("127.0.0.1", "https", 0, "http"),
        ("10.0.0.1", "gopher", 1, "http"),
        ("10.0.0.1", None, 1, "http"),
    ],
)
def test_the_scheme_is_what_a_trusted_proxy_says(
    peer: str, forwarded: str | None, trusted_proxies: int | None, scheme: str
) -> None:
    url = public_url(_environ(peer, forwarded), trusted_proxies)
    assert url == f"{scheme}://events.example.com/hooks/abc?a=b%20c&d=%C3%A9"


def test_path_and_query_are_read_elsewhere_if_the_server_does_not_have_them_as_sent() -> None:
    environ = _environ("127.0.0.1")
    environ.pop("RAW_URI")
    assert public_url(environ, None) == "https://events.example.com/hooks/abc?a=b%20c&d=%C3%A9"
