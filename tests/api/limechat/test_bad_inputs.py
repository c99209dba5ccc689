"""Bad input of any kind gets the right refusal, with its position; nothing is stored, and the process keeps running.

Each input goes over a raw socket to both kinds of gunicorn worker that deploy/gunicorn.conf.py knows.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.services import workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import EVENTS_PATH, Sender, a_sender, a_workflow, an_event
from tests.support.server import Server

GOOD = json.dumps(an_event()).encode()
SCRIPT = "<script>alert(1)</script>"
START = f"POST {EVENTS_PATH} HTTP/1.1".encode()


@dataclass(frozen=True)
class Bad:
    """An input: what makes it differ from a good event, and what its refusal has to be.

    `message` has to be in the problem document. `headers` are changes to the good ones (None: left out); `lines` are
    more lines of the head, `start` its first one. `whole` replaces everything. `end`: the sender closes its side.
    """

    name: str
    status: int
    message: str = ""
    body: bytes = GOOD
    headers: dict[str, str | bytes | None] = field(default_factory=dict)
    lines: tuple[bytes, ...] = ()
    start: bytes = START
    whole: bytes | None = None
    end: bool = False

    def request(self, sender: Sender) -> bytes:
        """The bytes on the wire."""
        if self.whole is not None:
            return self.whole
        headers: dict[str, str | bytes | None] = {
            "Host": "signalbox.test",
            "Content-Type": "application/json",
            "Content-Length": str(len(self.body)),
            **sender.headers(Idempotency_Key="bad"),
            **self.headers,
        }
        head = [self.start]
        for name, value in headers.items():
            if value is not None:
                head.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
        return b"\r\n".join([*head, *self.lines]) + b"\r\n\r\n" + self.body


def event(**changes: Any) -> bytes:
    """A body with these changes to a good event."""
    return json.dumps(an_event(**changes)).encode()


def event_with(text: bytes, path: str = "data.x") -> bytes:
    """A body with this text, whatever it is, in place of one value."""
    bodies = {
        "data.x": event(data={"x": "?"}),
        "data.list[1].x": event(data={"list": [0, {"x": "?"}]}),
        "extra": event(extra="?"),
        "event": event(event="?"),
        "distinct_id": event(distinct_id="?"),
        "phone": event(phone="?"),
        "data": event(data="?"),
    }
    return bodies[path].replace(b'"?"', text)


def nested(depth: int, opening: bytes, closing: bytes, inside: bytes = b"1") -> bytes:
    return event_with(opening * depth + inside + closing * depth)


def chunked(body: bytes) -> dict[str, Any]:
    """The changes that send `body` as it is after a head that announces chunks."""
    return {"headers": {"Content-Length": None, "Transfer-Encoding": "chunked"}, "body": body}


def packed(body: bytes) -> dict[str, Any]:
    return {"headers": {"Content-Encoding": "gzip"}, "body": body}


def two_gzips() -> bytes:
    return gzip.compress(gzip.compress(GOOD))


def zeros(mebibytes: int) -> bytes:
    """A gzip of so many zeros. To compress them all takes seconds: one MiB is repeated, and no reader comes to the checksum."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    one = packer.compress(b"\0" * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + one * mebibytes + packer.flush() + b"\0" * 8


NOT_JSON = [
    Bad("nothing at all", 400, "empty", b""),
    Bad("only white space", 400, "empty", b" \r\n\t "),
    Bad("only a brace", 400, "line 1, column 2", b"{"),
    Bad("half an object", 400, "line 1, column", GOOD[:-1]),
    Bad("two objects", 400, f"line 1, column {len(GOOD) + 1}", GOOD + GOOD),
    Bad("a comma too many", 400, "line 1, column", b'{"event": "x",}'),
    Bad("a missing comma", 400, "line 3, column 2", b'{"event": "x",\n "phone": "+1"\n "data": {}}'),
    Bad("single quotes", 400, "line 1, column 2", b"{'event': 'x'}"),
    Bad("names without quotes", 400, "line 1, column 2", b'{event: "x"}'),
    Bad("a comment", 400, "line 2, column 1", b'{"event": "x",\n// comment\n"phone": "+1"}'),
    Bad("a leading zero", 400, "line 1", event_with(b"01")),
    Bad("a leading plus", 400, "line 1", event_with(b"+1")),
    Bad("a leading point", 400, "line 1", event_with(b".5")),
    Bad("a trailing point", 400, "line 1", event_with(b"1.")),
    Bad("a hexadecimal number", 400, "line 1", event_with(b"0x10")),
    Bad("digits of another script", 400, "line 1", event_with("٣".encode())),
    Bad("NaN", 400, "NaN at line 1, column", event_with(b"NaN")),
    Bad("Infinity", 400, "Infinity at line 1, column", event_with(b"Infinity")),
    Bad("-Infinity", 400, "-Infinity at line 1, column", event_with(b"-Infinity")),
    Bad("NaN in a list of an unknown field", 400, "NaN at line 1, column", event_with(b"[1, NaN]", "extra")),
    Bad("the wrong case of true", 400, "line 1", event_with(b"True")),
    Bad("undefined", 400, "line 1", event_with(b"undefined")),
    Bad("a raw newline in text", 400, "line 1", event_with(b'"a\nb"')),
    Bad("a raw NUL in text", 400, "line 1", event_with(b'"a\x00b"')),
    Bad("a raw NUL between", 400, "line 1", b"{\x00" + GOOD[1:]),
    Bad("an unknown escape", 400, "line 1", event_with(rb'"\x41"')),
    Bad("half an escape", 400, "line 1", event_with(rb'"\u00"')),
    Bad("a text without end", 400, "line 1", event_with(b'"')),
    Bad("a top level of a list", 400, "array", b"[" + GOOD + b"]"),
    Bad("a top level of text", 400, "string", b'"product_view"'),
    Bad("a top level of a number", 400, "number", b"1"),
    Bad("a top level of null", 400, "null", b"null"),
    Bad("a top level of true", 400, "true or false", b"true"),
    Bad("a form", 400, "line 1", b"event=product_view&phone=%2B915673412780"),
    Bad("XML", 400, "line 1", b"<event><name>product_view</name></event>"),
    Bad("a script", 400, "line 1", SCRIPT.encode()),
    Bad("lists in 65 levels", 400, "64 levels", nested(63, b"[", b"]")),
    Bad("objects in 65 levels", 400, "64 levels", nested(63, b'{"a":', b"}")),
    Bad("a hundred thousand lists", 400, "64 levels", b"[" * 100_000),
    Bad("a hundred thousand objects", 400, "64 levels", b'{"a":' * 100_000),
    Bad("a hundred thousand closing brackets", 400, "line 1, column 1", b"]" * 100_000),
    Bad("deep nesting on a later line", 400, "line 2, column", b'{"data":\n' + b"[" * 70 + b"]" * 70 + b"}"),
    Bad("a repeated event", 400, "event appears twice", b'{"event": "x", ' + GOOD[1:]),
    Bad("a repeated event, once in escapes", 400, "event appears twice", b'{"\\u0065vent": "x", ' + GOOD[1:]),
    Bad("a repeated name in data", 400, "data.x.a appears twice", event_with(b'{"a": 1, "a": 1}')),
    Bad(
        "a repeated name deep down",
        400,
        "data.list[1].x[0].a appears",
        event_with(b'[{"a":1,"a":2}]', "data.list[1].x"),
    ),
    Bad("a repeated name in an unknown field", 400, "extra.a appears twice", event_with(b'{"a": 1, "a": 2}', "extra")),
    Bad("a repeated empty name", 400, 'data.x[\\"\\"] appears', event_with(b'{"": 1, "": 2}')),
    Bad(
        "a repeated name beside a long number", 400, "data.x.a appears", event_with(b'{"a":1,"a":' + b"9" * 5000 + b"}")
    ),
    Bad("a repeated script", 400, "appears twice", event_with(b'{"%s":1,"%s":2}' % ((SCRIPT.encode(),) * 2))),
]

ENCODINGS = [
    Bad("Latin-1", 400, "not UTF-8: byte", event_with('"é"'.encode("latin-1"))),
    Bad("a lone continuation byte", 400, "not UTF-8: byte", event_with(b'"\x80"')),
    Bad("an overlong slash", 400, "not UTF-8: byte", event_with(b'"\xc0\xaf"')),
    Bad("an encoded surrogate", 400, "not UTF-8: byte", event_with(b'"\xed\xa0\x80"')),
    Bad("a code point beyond Unicode", 400, "not UTF-8: byte", event_with(b'"\xf4\x90\x80\x80"')),
    Bad("a character cut in half", 400, "not UTF-8: byte", event_with('"é"'.encode()[:-2])),
    Bad("UTF-16 with a mark", 400, "not UTF-8: byte 1", GOOD.decode().encode("utf-16")),
    Bad("UTF-16 without a mark", 400, "line 1, column", GOOD.decode().encode("utf-16-le")),
    Bad("UTF-32", 400, "not UTF-8: byte 1", GOOD.decode().encode("utf-32")),
    Bad("UTF-8 with two marks", 400, "BOM", b"\xef\xbb\xbf" * 2 + GOOD),
    Bad("random bytes", 400, "not UTF-8: byte", bytes(range(256))),
    Bad("gzip that does not say so", 400, "not UTF-8: byte 2", gzip.compress(GOOD)),
]

UNSTORABLE = [
    Bad("NUL in data", 422, '"field":"data.x"', event_with(rb'"\u0000"')),
    Bad("NUL in a list", 422, '"field":"data.list[1].x[2]"', event_with(rb'[1, 2, "a\u0000b"]', "data.list[1].x")),
    Bad("NUL in a name", 422, "NUL", event_with(rb'{"a\u0000": 1}')),
    Bad("NUL in the event", 422, '"field":"event"', event_with(rb'"a\u0000"', "event")),
    Bad("NUL in the distinct_id", 422, '"field":"distinct_id"', event_with(rb'"a\u0000"', "distinct_id")),
    Bad("NUL in the phone", 422, '"field":"phone"', event_with(rb'"+9156734\u000012780"', "phone")),
    Bad("NUL in an unknown field", 422, '"field":"extra"', event_with(rb'"\u0000"', "extra")),
    Bad("NUL in the name of an unknown field", 422, "NUL", b'{"\\u0000": 1, ' + GOOD[1:]),
    Bad("a high surrogate", 422, "data.x", event_with(rb'"\ud800"')),
    Bad("a low surrogate", 422, "data.x", event_with(rb'"\uDFFF"')),
    Bad("surrogates in the wrong order", 422, "data.x", event_with(rb'"\udc00\ud800"')),
    Bad("a surrogate cut off", 422, "data.x", event_with(rb'"\ud83d\u0041"')),
    Bad("a surrogate in the event", 422, '"field":"event"', event_with(rb'"\ud800"', "event")),
    Bad("a surrogate in a name", 422, "surrogate", event_with(rb'{"\ud800": 1}')),
    Bad("1e999999", 422, "data.x: the number 1e999999", event_with(b"1e999999")),
    Bad("-1E+999999", 422, "data.x", event_with(b"-1E+999999")),
    Bad("1e-999999", 422, "data.x", event_with(b"1e-999999")),
    Bad("0e999999", 422, "data.x", event_with(b"1.5e131072")),
    Bad("an exponent of 30 digits", 422, "data.list[1].x", event_with(b"1e" + b"9" * 30, "data.list[1].x")),
    Bad("an exponent of 4,000 digits", 422, "data.x", event_with(b"1e" + b"9" * 4000)),
    Bad("a number of 131,073 digits", 422, "data.x", event_with(b"9" * 131_073)),
    Bad("a number of half a million digits", 422, "data.x", event_with(b"9" * 500_000)),
    Bad("16,384 digits after the point", 422, "data.x", event_with(b"0." + b"1" * 16_384)),
    Bad("a huge number in an unknown field", 422, '"field":"extra"', event_with(b"1e999999", "extra")),
    Bad("a huge number as distinct_id", 422, "distinct_id", event_with(b"1e999999", "distinct_id")),
]

INVALID_FIELDS = [
    Bad("an empty object", 422, '"field":"event"', b"{}"),
    Bad("no event", 422, '"field":"event"', event(event=...)),
    Bad("an event of null", 422, '"field":"event"', event(event=None)),
    Bad("an event of 256 characters", 422, "256", event(event="x" * 256)),
    Bad("an event of half a million characters", 422, '"field":"event"', event(event="x" * 500_000)),
    Bad("an event that is an object", 422, '"field":"event"', event(event={"name": SCRIPT})),
    Bad("a phone that is a number", 422, '"field":"phone"', event(phone=915673412780)),
    Bad("a phone that is a script", 422, '"field":"phone"', event(phone=SCRIPT)),
    Bad("a phone of half a million digits", 422, '"field":"phone"', event(phone="+" + "9" * 500_000)),
    Bad("a distinct_id that is true", 422, '"field":"distinct_id"', event(distinct_id=True)),
    Bad("a distinct_id of 5,000 digits", 422, '"field":"distinct_id"', event_with(b"9" * 5_000, "distinct_id")),
    Bad("a distinct_id of 3,999 digits", 422, '"field":"distinct_id"', event_with(b"9" * 3_999, "distinct_id")),
    Bad("a distinct_id of 256 characters", 422, '"field":"distinct_id"', event(distinct_id="😀" * 256)),
    Bad("data that is a list", 422, '"field":"data"', event(data=[{}])),
    Bad("data that is text", 422, '"field":"data"', event(data="{}")),
    Bad("data that is null", 422, '"field":"data"', event(data=None)),
    Bad("nobody", 422, '"field":"distinct_id"', event(distinct_id=None, phone="")),
    Bad("all wrong", 422, '"field":"phone"', event(event=1, phone=1, distinct_id=[], data=1)),
]

SIZES = [
    Bad("one byte too many", 413, "524288", event(data={"x": "y" * 524_288})),
    Bad("a gigabyte announced", 413, "524288", b"", {"Content-Length": "1000000000"}),
    Bad("an absurd length", 413, "524288", b"", {"Content-Length": "9" * 30}),
    Bad("too much in chunks", 413, "524288", **chunked(b"80001\r\n" + b" " * 0x80001 + b"\r\n0\r\n\r\n")),
    Bad(
        "too much in small chunks",
        413,
        "524288",
        **chunked((b"1000\r\n" + b" " * 0x1000 + b"\r\n") * 200 + b"0\r\n\r\n"),
    ),
    Bad("a zip bomb", 413, "unpacked", **packed(zeros(300))),
    Bad("a zip bomb of many members", 413, "unpacked", **packed(gzip.compress(b" " * 100_000) * 100)),
    Bad("a zip bomb beyond the limit when packed", 413, "unpacked", **packed(zeros(700))),
]

PACKED = [
    Bad("not gzip", 400, "gzip", **packed(GOOD)),
    Bad("nothing, packed by nobody", 400, "empty", **packed(b"")),
    Bad("nothing, packed", 400, "empty", **packed(gzip.compress(b""))),
    Bad("1,000 times nothing, packed", 400, "empty", **packed(gzip.compress(b"") * 1_000)),
    Bad("25,000 times nothing, packed", 400, "more than 1000 members", **packed(gzip.compress(b"") * 25_000)),
    Bad("gzip cut off", 400, "cut off", **packed(gzip.compress(GOOD)[:-20])),
    Bad("gzip cut off in its last byte", 400, "cut off", **packed(gzip.compress(GOOD)[:-1])),
    Bad("gzip cut off in its head", 400, "cut off", **packed(gzip.compress(GOOD)[:5])),
    Bad("gzip with a wrong checksum", 400, "gzip", **packed(gzip.compress(GOOD)[:-8] + b"\0" * 8)),
    Bad("gzip with something behind", 400, "gzip", **packed(gzip.compress(GOOD) + b"more")),
    Bad("zlib called gzip", 400, "gzip", **packed(zlib.compress(GOOD))),
    Bad("gzip twice", 400, "not UTF-8", **packed(two_gzips())),
    Bad("gzip twice, both named", 415, "gzip, gzip", two_gzips(), {"Content-Encoding": "gzip, gzip"}),
    Bad("brotli", 415, "br", headers={"Content-Encoding": "br"}),
    Bad("a hostile encoding", 415, "gzip", headers={"Content-Encoding": SCRIPT}),
    Bad("a hostile media type", 415, "application/json", headers={"Content-Type": f"text/{SCRIPT}"}),
    Bad("a media type of 8,000 characters", 415, "application/json", headers={"Content-Type": "x" * 8_000}),
    Bad("a media type that is no text", 415, "application/json", headers={"Content-Type": bytes(range(128, 256))}),
    Bad("an unknown charset", 415, "utf-8", headers={"Content-Type": f'application/json; charset="{SCRIPT}"'}),
    Bad("two media types", 415, "", headers={"Content-Type": "application/json, text/html"}),
]

SENDERS = [
    Bad("no key", 401, "x-limechat-uat", headers={"x-limechat-uat": None}),
    Bad("a key that is SQL", 401, "", headers={"x-limechat-uat": "' OR ''='"}),
    Bad("a key that is no text", 401, "", headers={"x-limechat-uat": bytes(range(128, 256))}),
    Bad("a key of 8,000 characters", 401, "", headers={"x-limechat-uat": "sb_" + "x" * 8_000}),
    Bad("a key twice", 401, "", lines=(b"x-limechat-uat: sb_12345678_" + b"x" * 43,)),
    Bad(
        "a key under a name with underscores", 401, "", headers={"x-limechat-uat": None}, lines=(b"x_limechat_uat: x",)
    ),
    Bad("an account that is SQL", 403, "", headers={"x-fb-account-id": "1; DROP TABLE events"}),
    Bad("an account of 8,000 digits", 403, "", headers={"x-fb-account-id": "9" * 8_000}),
    Bad("an account twice", 403, "", lines=(b"x-fb-account-id: 1",)),
    Bad("no account", 422, '"field":"x-fb-account-id"', headers={"x-fb-account-id": None}),
    Bad("an empty idempotency key", 422, '"field":"Idempotency-Key"', headers={"Idempotency-Key": ""}),
    Bad("a long idempotency key", 422, '"field":"Idempotency-Key"', headers={"Idempotency-Key": "k" * 256}),
    Bad("an idempotency key in UTF-8", 422, '"field":"Idempotency-Key"', headers={"Idempotency-Key": "schlüssel"}),
]

ADDRESSES = [
    Bad("another address", 404, "", start=b"POST /api/v1/events HTTP/1.1"),
    Bad("a slash behind", 404, "", start=f"POST {EVENTS_PATH}/ HTTP/1.1".encode()),
    Bad("a slash too many", 404, "", start=b"POST /api//v1/cvf-events HTTP/1.1"),
    Bad("a way up", 404, "", start=b"POST /api/v1/../../api/v1/cvf-events HTTP/1.1"),
    Bad("an encoded way up", 404, "", start=b"POST /api/v1/%2e%2e/v1/cvf-events HTTP/1.1"),
    Bad("an encoded NUL", 404, "", start=f"POST {EVENTS_PATH}%00 HTTP/1.1".encode()),
    Bad("an encoded line break", 404, "", start=f"POST {EVENTS_PATH}%0d%0aX-Evil:1 HTTP/1.1".encode()),
    Bad("an address that is no UTF-8", 404, "", start=b"POST /%ff%fe HTTP/1.1"),
    Bad("an address that is a script", 404, "", start=f"POST /{SCRIPT} HTTP/1.1".encode()),
    Bad("an asterisk", 400, "", start=b"POST * HTTP/1.1"),
    Bad("PUT", 405, "", start=f"PUT {EVENTS_PATH} HTTP/1.1".encode()),
    Bad("an unknown method", 405, "", start=f"EVENT {EVENTS_PATH} HTTP/1.1".encode()),
    Bad("a line of 5,000 characters", 414, "", start=b"POST /" + b"x" * 5_000 + b" HTTP/1.1"),
    Bad("a query of 100,000 characters", 414, "", start=f"POST {EVENTS_PATH}?{'x' * 100_000} HTTP/1.1".encode()),
]

NOT_HTTP = [
    Bad("a header of 9,000 characters", 431, "", headers={"X-Long": "x" * 9_000}),
    Bad("a header of a megabyte", 431, "", headers={"X-Long": "x" * 1_000_000}),
    Bad("a hundred headers", 431, "", lines=tuple(b"X-%d: x" % number for number in range(100))),
    Bad("a header without a colon", 400, "", lines=(b"no colon",)),
    Bad("a header without a name", 400, "", lines=(b": x",)),
    Bad("a header name with a space", 400, "", lines=(b"X Header: x",)),
    Bad("a header name with a space behind", 400, "", lines=(b"X-Header : x",)),
    Bad("a header name that is a script", 400, "", lines=(SCRIPT.encode() + b": x",)),
    Bad("a header in two lines", 400, "", lines=(b"X-Header: a", b" b")),
    Bad("a header with a NUL", 400, "", lines=(b"X-Header: a\x00b",)),
    Bad("a header with half a line break", 400, "", lines=(b"X-Header: a\rX-Evil: b",)),
    Bad("a request id that would add a header", 400, "", lines=(b"X-Request-Id: a\r\x0bX-Evil: b",)),
    Bad("an idempotency key that breaks the line", 400, "", headers={"Idempotency-Key": "a\nb"}),
    Bad("a negative length", 400, "", headers={"Content-Length": "-1"}),
    Bad("a length in words", 400, "", headers={"Content-Length": "many"}),
    Bad("a length with a plus", 400, "", headers={"Content-Length": "+5"}),
    Bad("a length with an underscore", 400, "", headers={"Content-Length": "1_0"}),
    Bad("a hexadecimal length", 400, "", headers={"Content-Length": "0x10"}),
    Bad("a length in other digits", 400, "", headers={"Content-Length": "١٠"}),
    Bad("an empty length", 400, "", headers={"Content-Length": ""}),
    Bad("two lengths", 400, "", lines=(b"Content-Length: 5",)),
    Bad("two lengths in one", 400, "", headers={"Content-Length": "5, 5"}),
    Bad("a length beside chunks", 400, "", lines=(b"Transfer-Encoding: chunked",)),
    Bad("no length", 400, "empty", headers={"Content-Length": None}),
    Bad("a body that ends too soon", 400, "of 500 bytes", headers={"Content-Length": "500"}, end=True),
    Bad(
        "chunks of what is packed",
        501,
        "can only be chunked",
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(gzip.compress(GOOD)), gzip.compress(GOOD)),
        {"Content-Length": None, "Transfer-Encoding": "gzip, chunked"},
    ),
    Bad("an unknown transfer encoding", 501, "", headers={"Content-Length": None, "Transfer-Encoding": "xchunked"}),
    Bad("a chunk without a size", 400, "", **chunked(b"\r\n" + GOOD + b"\r\n0\r\n\r\n")),
    Bad("a chunk with a size in words", 400, "", **chunked(b"many\r\n" + GOOD + b"\r\n0\r\n\r\n")),
    Bad("a chunk with a negative size", 400, "", **chunked(b"-5\r\n" + GOOD + b"\r\n0\r\n\r\n")),
    Bad("a chunk that is longer than it says", 400, "", **chunked(b"5\r\n" + GOOD + b"\r\n0\r\n\r\n")),
    Bad("a chunk that ends too soon", 400, "", **chunked(b"fff\r\n" + GOOD), end=True),
    Bad("chunks without an end", 400, "", **chunked(b"%x\r\n%s\r\n" % (len(GOOD), GOOD)), end=True),
    Bad("a chunk size of a thousand digits", 400, "", **chunked(b"f" * 1000 + b"\r\n" + GOOD), end=True),
    Bad("an expectation that nobody knows", 417, "", headers={"Expect": "200-maybe"}),
    Bad("HTTP/9.9", 505, "", start=f"POST {EVENTS_PATH} HTTP/9.9".encode()),
    Bad("no version", 400, "", start=f"POST {EVENTS_PATH}".encode()),
    Bad("a version that is none", 505, "", start=f"POST {EVENTS_PATH} HTTP/x".encode()),
    Bad("a method in lower case", 400, "", start=f"post {EVENTS_PATH} HTTP/1.1".encode()),
    Bad("a method that is a script", 400, "", start=f"{SCRIPT} {EVENTS_PATH} HTTP/1.1".encode()),
    Bad("an address with a space", 505, "", start=b"POST /api v1 HTTP/1.1"),
    Bad("only line breaks", 400, "", whole=b"\r\n\r\n\r\n\r\n"),
    Bad(
        "a greeting of TLS",
        400,
        "",
        whole=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)) + b"\r\n\r\n",
    ),
    Bad("a greeting of SSH", 400, "", whole=b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    Bad("a greeting of HTTP/2", 400, "", whole=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Bad("a command for Redis", 400, "", whole=b"*1\r\n$4\r\nPING\r\n\r\n"),
    Bad("bytes of all kinds", 400, "", whole=bytes(range(256)) + b"\r\n\r\n"),
]

ALL = [*NOT_JSON, *ENCODINGS, *UNSTORABLE, *INVALID_FIELDS, *SIZES, *PACKED, *SENDERS, *ADDRESSES, *NOT_HTTP]


@dataclass(frozen=True)
class Watched:
    """A sender of bad inputs, whose account has a workflow that would start; and one of a good event after each."""

    bad: Sender
    good: Sender
    kept: Callable[[], tuple[object, ...]]
    processes: list[int]


@pytest.fixture(scope="module")
def watched(context: AppContext, server: Server, rows: Rows) -> Watched:
    bad, good = a_sender(context, server, "hostile"), a_sender(context, server, "acme")
    workflows.apply_workflow(context, bad.account_id, a_workflow(on="*"))

    def kept() -> tuple[object, ...]:
        tables = ("events", "runs", "idempotency_keys")
        counts = ", ".join(f"(SELECT count(*) FROM {table} WHERE account_id = {bad.account_id})" for table in tables)
        return rows(f"SELECT {counts}")[0]

    return Watched(bad, good, kept, server.processes())


@pytest.mark.parametrize("bad", ALL, ids=[bad.name for bad in ALL])
def test_a_bad_input_is_refused_with_its_position_and_nothing_is_stored(
    server: Server, watched: Watched, bad: Bad
) -> None:
    answer = server.exchange(bad.request(watched.bad), end=bad.end)
    assert answer.status_code == bad.status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json
    assert problem["status"] == bad.status
    assert problem["type"]
    assert problem["title"]
    assert problem["detail"]
    assert bad.message.replace('\\"', '"') in problem["detail"] or bad.message in answer.text
    assert "<" not in answer.text
    assert len(answer.data) < 10_000
    assert "X-Evil" not in answer.headers
    assert answer.headers["X-Request-Id"]
    assert watched.kept() == (0, 0, 0)
    assert watched.good.post(an_event()).status_code == 200


def test_no_process_was_restarted(server: Server, watched: Watched) -> None:
    assert server.processes() == watched.processes


def test_at_least_60_bad_inputs_are_tested() -> None:
    assert len(ALL) >= 60
    assert len({bad.name for bad in ALL}) == len(ALL)


def test_the_valid_event_that_all_differ_from_is_accepted(server: Server, context: AppContext) -> None:
    sender = a_sender(context, server)
    assert server.exchange(Bad("none", 200).request(sender)).status_code == 200


HOSTILE = [
    SCRIPT,
    "'; DROP TABLE events; --",
    "%s %(name)s $1 {0} {{ event }} \\",
    "😀" * 255,
    "\u202e\u05d0\u05d1\u05d2\u202c",
    "a\nb\r\n\tc",
    "\u0001\u007f\u0085\u2028\ufeff\uffff",
    "../../etc/passwd",
    "${jndi:ldap://evil/x}",
    "x" * 255,
    "{",
    '"',
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_data_like_any_other(server: Server, context: AppContext, rows: Rows, text: str) -> None:
    sender = a_sender(context, server)
    answer = sender.post(an_event(event=text, distinct_id=text, data={text: text}, **{text: text}))
    assert answer.status_code == 200
    assert rows("SELECT event, distinct_id, data, extra FROM events WHERE account_id = %s", sender.account_id) == [
        (text, text, {text: text}, {text: text})
    ]
    assert (answer.json["event"], answer.json["distinct_id"]) == (text, text)
    assert "<" not in answer.text


def test_an_unusual_host_header_is_ignored(server: Server, context: AppContext) -> None:
    answer = server.exchange(
        Bad("none", 200, headers={"Host": f"evil.test/{SCRIPT}"}).request(a_sender(context, server))
    )
    assert answer.status_code == 200
    assert "evil" not in answer.text + str(answer.headers)
