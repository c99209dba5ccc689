"""Which calls of `http` steps are one target."""

from __future__ import annotations

import pytest
from yarl import URL

from app.actions.call_target import http_target


@pytest.mark.parametrize(
    ("template", "url", "target"),
    [
        ("https://a.example/hook", "https://a.example/hook", "POST https://a.example/hook"),
        ("https://a.example", "https://a.example/", "POST https://a.example/"),
        ("https://a.example:8443/x?y=1#z", "https://a.example:8443/x?y=1#z", "POST https://a.example:8443/x"),
        ("https://a.example/x?id={{ data.id }}", "https://a.example/x?id=7", "POST https://a.example/x"),
        ("https://a.example/o/{{ data.id }}/paid", "https://a.example/o/7/paid", "POST https://a.example/o/*/paid"),
        ("https://{{ data.shop }}/o/{{ data.id }}", "https://b.example/o/7", "POST https://b.example/o/*"),
        ("https://a.example{{ data.path }}", "https://a.example/some/path", "POST https://a.example/some/path"),
        ("{{ data.url }}", "https://a.example/some/path?x=1", "POST https://a.example/some/path"),
        ("{{ data.url }}", "https://a.example/orders/10023/SO-98765", "POST https://a.example/orders/*/*"),
        ("{{ data.url }}", "https://a.example/v1/mail/a@b.example", "POST https://a.example/v1/mail/*"),
        (
            "{{ data.url }}",
            "https://a.example/services/Txxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "POST https://a.example/services/*",
        ),
        ("{% if x %}https://a.example/1{% endif %}", "https://a.example/1", "POST https://a.example/1"),
        ("https://a.example/{{ data.x | default: 'a/b?c' }}", "https://a.example/a/b?c", "POST https://a.example/*"),
        ({"mustache": "https://a.example/o/{{{id}}}"}, "https://a.example/o/7", "POST https://a.example/o/*"),
    ],
)
def test_a_target_is_a_method_an_origin_and_a_written_path(template: object, url: str, target: str) -> None:
    assert http_target("POST", template, URL(url)) == target


def test_methods_are_targets_of_their_own() -> None:
    url = "https://a.example/x"
    assert http_target("GET", url, URL(url)) != http_target("PUT", url, URL(url))
