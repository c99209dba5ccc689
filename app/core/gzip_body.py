"""Unpacks the gzip body of a request within its limit of size."""

from __future__ import annotations

import zlib

from app.core.errors import Problem, ProblemType

_PIECE = 16 * 1024
# Each member takes a decompressor of its own, however small it is.
_MAX_MEMBERS = 1_000
UNPACKED = "counted unpacked"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def too_large(limit: int, counted: str = UNPACKED) -> Problem:
    """The 413 of a body beyond `limit` bytes, packed or unpacked."""
    return Problem(ProblemType.BODY_TOO_LARGE, f"The body is larger than {limit} bytes ({counted}).")


def unpack(body: bytes, limit: int) -> bytes:
    """Gunzip (all members of) `body`, never making more than `limit` bytes. Raises Problem: 413 (more), 400 (broken)."""
    unpacked, position = bytearray(), 0
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(wbits=31)
        while not member.eof and position < len(body):
            # In pieces: zlib copies what follows a member, and a body may have many members.
            piece = body[position : position + _PIECE]
            try:
                unpacked += member.decompress(piece, limit + 1 - len(unpacked))
            except zlib.error:
                raise Problem(ProblemType.MALFORMED_BODY, "Content-Encoding is gzip, but the body is not.") from None
            if len(unpacked) > limit:
                raise too_large(limit)
            position += len(piece) - len(member.unused_data)
        if body and not member.eof:
            raise Problem(ProblemType.MALFORMED_BODY, "The gzip body is cut off before its end.")
        if position == len(body):
            return bytes(unpacked)
    raise Problem(ProblemType.MALFORMED_BODY, f"The gzip body has more than {_MAX_MEMBERS} members.")
