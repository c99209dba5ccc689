"""Parts of requests that two HTTP implementations may read differently, each with a further request hidden inside."""

from __future__ import annotations

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
ALL = b"Content-Length: %d\r\n" % len(b"0\r\n\r\n" + SMUGGLED)
CHUNKS = b"Transfer-Encoding: chunked\r\n"
HIDDEN = b"0\r\n\r\n" + SMUGGLED

# Header lines that leave open where the body ends, and a body that hides a request from one of the two readers.
_LENGTHS = (
    *(
        b"+5",
        b"-5",
        b"-0",
        b"0x5",
        b"5 5",
        b"5_0",
        b"",
        b"5,5",
        b"5, 5",
        b"\xd9\xa5",
        b"\xb2",
        b"5\x00",
        b"5\x0b",
        b"\x0c5",
    ),
    *(b"5;", b"5.0", b"1e1", b"five", b"5\r5", b"\x005", b"5\xa0", b"\xa05"),
)
_ENCODINGS = (
    *(
        b"xchunked",
        b"chunkedx",
        b"chunked, identity",
        b"identity, chunked",
        b"gzip, chunked",
        b"identity",
        b"",
        b"chunked\x0b",
    ),
    *(
        b"\x0bchunked",
        b"\x00chunked",
        b"chunked\x00",
        b"chunked;q=1",
        b'"chunked"',
        b"chunked,",
        b", chunked",
        b"chun ked",
    ),
    *(b"chunked\xa0", b"chunked\r", b"chunked\x0cx", b"chunked chunked", b"\xc3\xa7hunked"),
)
_NAMES = (
    *(b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding\t: chunked\r\n", b"Transfer-Encoding\x00: chunked\r\n"),
    *(b" Transfer-Encoding: chunked\r\n", b"\tTransfer-Encoding: chunked\r\n", b"Transfer\x0bEncoding: chunked\r\n"),
    *(
        b"Transfer-Encoding chunked\r\n",
        b": chunked\r\n",
        b"Transfer-Encoding\xa0: chunked\r\n",
        b"X: y\r\n Transfer-Encoding: chunked\r\n",
    ),
    *(
        b"X: y\rTransfer-Encoding: chunked\r\n",
        b"X: y\x00\r\n",
        b"X(: y\r\n",
        b"X: y\r\r\n",
        b"H\xc3\xb6st: x\r\n",
        b"X: \x7f\r\n",
    ),
    *(
        b"X: y\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding:\nchunked\r\n",
        b"Transfer-Encoding: chunked\n",
        b"X: \x1f\r\n",
    ),
)
AMBIGUOUS_LINES: dict[str, tuple[bytes, bytes]] = {
    "a length and chunks": (ALL + CHUNKS, HIDDEN),
    "chunks and a length": (CHUNKS + ALL, HIDDEN),
    "a short length and chunks": (b"Content-Length: 5\r\n" + CHUNKS, HIDDEN),
    "two lengths": (b"Content-Length: 0\r\n" + ALL, HIDDEN),
    "the other two lengths": (ALL + b"content-length: 0\r\n", HIDDEN),
    "the same length twice": (ALL + ALL, HIDDEN),
    "chunks twice": (CHUNKS + CHUNKS, HIDDEN),
    "two hosts": (b"Host: y\r\n" + ALL, HIDDEN),
    "two types": (b"Content-Type: a\r\nContent-Type: b\r\n" + ALL, HIDDEN),
    "an expectation": (b"Expect: 200-maybe\r\n" + ALL, HIDDEN),
    "a length of 1100 digits": (b"Content-Length: %s5\r\n" % (b"0" * 1100), b"hello"),
    "seventy fields": (b"".join(b"X-%d: y\r\n" % n for n in range(70)) + ALL, HIDDEN),
    "a field of 9000 bytes": (b"X: %s\r\n" % (b"y" * 9_000) + ALL, HIDDEN),
    **{f"the length {value!r}": (b"Content-Length: %s\r\n" % value, b"hello" + SMUGGLED) for value in _LENGTHS},
    **{f"the encoding {value!r}": (b"Transfer-Encoding: %s\r\n" % value, HIDDEN) for value in _ENCODINGS},
    **{
        f"the encoding {value!r} and a length": (b"Transfer-Encoding: %s\r\n" % value + ALL, HIDDEN)
        for value in _ENCODINGS
    },
    **{f"the line {line!r}": (line + ALL, HIDDEN) for line in _NAMES},
    **{f"the line {line!r} behind a length": (ALL + line, HIDDEN) for line in _NAMES},
}
# Bodies that break the chunked encoding.
BROKEN_CHUNKS: dict[str, bytes] = {
    repr(body[:40]): body + SMUGGLED
    for body in (
        *(b"\r\n5\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n"),
        *(
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
        ),
        *(
            b"5\x0b\r\nhello\r\n0\r\n\r\n",
            b"5;a\nhello\r\n0\r\n\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"5;\x00\r\nhello\r\n0\r\n\r\n",
        ),
        *(
            b"g\r\nhello\r\n0\r\n\r\n",
            b"5\r\rhello\r\n0\r\n\r\n",
            b"00000000000000005\r\nhello\r\n0\r\n\r\n",
            b"5,5\r\nhello\r\n0\r\n\r\n",
        ),
        *(
            b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
            b"4\r\nhello\r\n0\r\n\r\n",
            b"6\r\nhello\r\n0\r\n\r\n",
            b"5_0\r\nhello\r\n0\r\n\r\n",
        ),
        *(
            b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX\r\n\r\n",
            b"5\r\nhello\r\n0\r\n X: y\r\n\r\n",
            b"5\r\nhello\r\n0\n\n",
        ),
        *(
            b"5\r\nhello\r\n0\r\nX: y\n\r\n",
            b"5\r\nhello\r\n0\r\nX: y\r\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\n",
        ),
        *(
            b"5;%s\r\nhello\r\n0\r\n\r\n" % (b"x" * 5_000),
            b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 100 + b"\r\n",
            b"5 5\r\nhello\r\n0\r\n\r\n",
        ),
        *(
            b"5\r\nhello\r\n0\r\nX: %s\r\n\r\n" % (b"y" * 5_000),
            b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n",
            b"5;\xff\r\nhello\r\n0\r\n\r\n",
        ),
    )
}
# First lines that are none; %s is the path.
INVALID_FIRST_LINES = (
    *(
        b"POST  %s HTTP/1.1\r\n",
        b"POST %s  HTTP/1.1\r\n",
        b"POST %s HTTP/1.1 \r\n",
        b" POST %s HTTP/1.1\r\n",
        b"POST\t%s HTTP/1.1\r\n",
    ),
    *(
        b"POST %s\tHTTP/1.1\r\n",
        b"post %s HTTP/1.1\r\n",
        b"POST %s HTTP/1.10\r\n",
        b"POST %s HTTP/1\r\n",
        b"POST %s HTTP/2.0\r\n",
    ),
    *(
        b"POST %s HTTP/0.9\r\n",
        b"POST %s HTTP/1.2\r\n",
        b"POST %s http/1.1\r\n",
        b"POST %s HTTP/ 1.1\r\n",
        b"POST %s\r\n",
        b"GET %s\r\n",
    ),
    *(
        b"POST %s\x00 HTTP/1.1\r\n",
        b"POST %s\xe4 HTTP/1.1\r\n",
        b"POST %s#x HTTP/1.1\r\n",
        b"POST %s HTTP/1.1\n",
        b"POST %s HTTP/1.1\r\r\n",
    ),
    *(
        b"POST\x0b%s HTTP/1.1\r\n",
        b"POST x%s HTTP/1.1\r\n",
        b"CONNECT x:80 HTTP/1.1\r\n",
        b"POST %s x HTTP/1.1\r\n",
        b"\r\n\r\nPOST %s HTTP/1.1\r\n",
    ),
    *(
        b"P\xc3\x96ST %s HTTP/1.1\r\n",
        b"POST %s HTTP/1.\xb2\r\n",
        b"POST ftp://x%s HTTP/1.1\r\n",
        b"POST * HTTP/1.1\r\n",
        b"POST %s\x85HTTP/1.1\r\n",
    ),
    b"POST /" + b"x" * 4_100 + b"%s HTTP/1.1\r\n",
)
# Lines that change nothing about where a request ends.
HARMLESS_LINES = (
    *(b"X-A: b\r\n", b"X-A: c\r\n", b"x-empty:\r\n", b"X-Spaces: \t  a  b\t \r\n", b"X-Obs: \xe4\xff\r\n"),
    *(b"X-Long: %s\r\n" % (b"y" * 4_000), b"!#$%&'*+-.^`|~9: z\r\n", b"Cookie: a=b\r\n", b"Cookie: c=d\r\n"),
    *(b"Accept: */*\r\n", b"X_Under: Content-Length\r\n", b"X-Colon: Transfer-Encoding: chunked\r\n"),
    *(b"Upgrade: h2c\r\n", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n", b"TE: trailers\r\n"),
    b"".join(b"X-%d: y\r\n" % n for n in range(40)),
)
