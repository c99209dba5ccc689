"""Trials: requests in files, what comes out, and what of a stored delivery can be verified again."""

from __future__ import annotations

import gzip
import hmac
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo

from app.cli.commands import group
from app.core import config
from app.ingest.sources.trial import UnreadableRequest, read_request
from app.services.context import AppContext

SECRET = "a secret of the shop"
SIGNED = """\
name: shop
secrets: ["{{ secrets.SHOP }}"]
verify: {hmac: sha256, header: X-Signature}
map:
  event: body.kind
  distinct_id: body.who
  occurred_at: body.at
  dedupe: body.id
"""
BODY = b'{"id": 1, "kind": "order", "who": "asha", "at": 1795927500, "total": 10.50}'


def a_request(body: bytes = BODY, *headers: str, line: str = "POST /hooks/x?a=1 HTTP/1.1") -> bytes:
    return "\n".join((line, "Host: events.example.com", *headers, "", "")).encode() + body


def signature(body: bytes = BODY, secret: str = SECRET) -> str:
    return f"X-Signature: {hmac.digest(secret.encode(), body, 'sha256').hex()}"


def test_a_request_has_method_url_headers_and_body() -> None:
    found = read_request(a_request(BODY, "X-A: 1", "x-a: 2"), 1_000)
    assert (found.method, found.url) == ("POST", "https://events.example.com/hooks/x?a=1")
    assert found.headers == {"host": "events.example.com", "x-a": "1,2"}
    assert found.raw_body == found.body == BODY


@pytest.mark.parametrize(
    ("sent", "headers", "read"),
    [
        (b"{}\n", (), b"{}"),
        (b"{}\r\n", (), b"{}"),
        (b"{}\n\n", (), b"{}\n"),
        (b"{}\n", ("Content-Length: 3",), b"{}\n"),
        (b"{}\n", ("Content-Length: 2",), b"{}"),
        (b"{}\n", ("Content-Length: 1",), b"{}"),
        (b"a\n\nb", (), b"a\n\nb"),
        (b"", (), b""),
    ],
)
def test_the_line_break_at_the_end_of_a_file_is_not_part_of_the_body(
    sent: bytes, headers: tuple[str, ...], read: bytes
) -> None:
    assert read_request(a_request(sent, *headers), 1_000).raw_body == read


def test_crlf_and_a_missing_body_are_read() -> None:
    found = read_request(b"GET https://a.example/hooks/x\r\nHost: b.example\r\n", 1_000)
    assert (found.method, found.url, found.raw_body) == ("GET", "https://a.example/hooks/x", b"")


def test_a_packed_body_is_unpacked() -> None:
    packed = gzip.compress(BODY)
    found = read_request(a_request(packed, "Content-Encoding: gzip", f"Content-Length: {len(packed)}"), 1_000)
    assert (found.raw_body, found.body) == (packed, BODY)
    found = read_request(a_request(packed, "Content-Encoding: gzip", f"Content-Length: {len(packed)}"), 10)
    assert (found.raw_body, found.body, found.fault) == (
        packed,
        b"",
        "The body is larger than 10 bytes (counted unpacked).",
    )


@pytest.mark.parametrize(
    ("raw", "line"),
    [(b"", 1), (b"\n\n{}", 1), (b"{}", 1), (b"post / HTTP/1.1", 1), (b"POST / HTTP/1.1\nHost\n\n", 2)],
)
def test_what_is_no_request_says_which_line(raw: bytes, line: int) -> None:
    with pytest.raises(UnreadableRequest, match=f"^line {line}: expected "):
        read_request(raw, 1_000)


@pytest.fixture
def without_database(tmp_path: Path) -> Flask:
    """The program where no Postgres answers."""
    flask_app = Flask("app")
    url = f"postgresql://nobody@127.0.0.1:1/none?host={tmp_path}"
    flask_app.extensions["context"] = AppContext(config.from_environment({"DATABASE_URL": url}))
    return flask_app


def try_(flask_app: Flask, folder: Path, request: bytes, *words: str, source: str = SIGNED) -> Result:
    (folder / "shop.yaml").write_text(source)
    (folder / "sent.http").write_bytes(request)
    line = ["source", "try", str(folder / "shop.yaml"), str(folder / "sent.http"), *words]
    return CliRunner().invoke(group, line, obj=ScriptInfo(create_app=lambda: flask_app))


def test_a_document_is_tried_without_a_database(without_database: Flask, tmp_path: Path) -> None:
    result = try_(without_database, tmp_path, a_request(BODY, signature()), "--secret", f"SHOP={SECRET}")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(
        "verified: yes, by secrets[0]\nevent 1 of 1\n  event: order\n  distinct_id: asha\n"
        "  occurred_at: 2026-11-29T04:45:00.000000Z\n  dedupe: 1\n  data:\n"
    )
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    result = try_(without_database, tmp_path, a_request(BODY), "--secret", f"SHOP=@{tmp_path / 'secret'}", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["verified"], found["reason"]) == (False, "the header x-signature is missing")
    assert '"total":10.50' in result.stdout.replace(": ", ":"), "numbers are as they were sent"


def test_a_secret_that_is_not_given_needs_the_database(without_database: Flask, tmp_path: Path) -> None:
    result = try_(without_database, tmp_path, a_request())
    assert (result.exit_code, result.stdout) == (3, "")
    result = try_(without_database, tmp_path, a_request(), "--secret", "OTHER=12345678")
    assert (result.exit_code, "the source reads no secret OTHER" in result.stderr) == (2, True)


def test_a_trial_maps_no_shared_secret(without_database: Flask, tmp_path: Path) -> None:
    source = SIGNED.replace("{hmac: sha256, header: X-Signature}", "{shared: {header: X-Shop}}")
    source = source.replace("occurred_at: body.at", "data: headers")
    request = a_request(BODY, f"X-Shop: {SECRET}", "X-Topic: orders")
    result = try_(without_database, tmp_path, request, "--secret", f"SHOP={SECRET}", source=source)
    assert (result.exit_code, "orders" in result.stdout, SECRET in result.output) == (0, True, False), result.output


def test_what_cannot_be_mapped_has_its_place_in_the_document(without_database: Flask, tmp_path: Path) -> None:
    result = try_(without_database, tmp_path, a_request(b'{"kind": 1}'), "--secret", f"SHOP={SECRET}")
    assert result.exit_code == 1
    assert f"not mapped: {tmp_path / 'shop.yaml'}:6:16: map.distinct_id: " in result.stdout


def test_a_timestamp_is_compared_with_the_given_time(without_database: Flask, tmp_path: Path) -> None:
    source = SIGNED.replace("X-Signature}", 'X-Signature, timestamp: {header: X-Time}, signed: "{timestamp}.{body}"}')
    request = a_request(BODY, "X-Time: 1795927500", signature(b"1795927500." + BODY))
    words = ("--secret", f"SHOP={SECRET}", "--at")
    result = try_(without_database, tmp_path, request, *words, "2026-11-29T04:49Z", source=source)
    assert "verified: yes" in result.stdout
    result = try_(without_database, tmp_path, request, *words, "2026-11-29T06:45Z", source=source)
    assert "verified: no, the timestamp is 2h old, the tolerance is 5m" in result.stdout


def test_a_handshake_is_answered(without_database: Flask, tmp_path: Path) -> None:
    source = 'name: a\nprovider: whatsapp\nsecrets: ["{{ secrets.APP }}"]\nverify_token: "{{ secrets.WORD }}"\n'
    secrets = ("--secret", "APP=12345678", "--secret", "WORD=open-sesame")
    line = "GET /hooks/x?hub.mode=subscribe&hub.verify_token={}&hub.challenge=77"
    request = a_request(b"", line=line.format("open-sesame"))
    result = try_(without_database, tmp_path, request, *secrets, source=source)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "handshake: 200 77")
    result = try_(without_database, tmp_path, a_request(b"", line=line.format("guess")), *secrets, source=source)
    assert (result.exit_code, "handshake: 403" in result.stdout) == (1, True)
