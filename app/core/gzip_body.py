"""Unpacks the gzip body of a request within its limit of size."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from app.core.errors import Problem, ProblemType
from app.core.pacing import pause_if_due

# Bytes that are unpacked, and that are made of them, in one step.
_PACKED, _UNPACKED = 16 * 1024, 64 * 1024
# Each member takes a decompressor of its own, however small it is.
_MAX_MEMBERS = 1_000
UNPACKED = "counted unpacked"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def too_large(limit: int, counted: str = UNPACKED) -> Problem:
    """The 413 of a body beyond `limit` bytes, packed or unpacked."""
    return Problem(ProblemType.BODY_TOO_LARGE, f"The body is larger than {limit} bytes ({counted}).")


def unpack(body: bytes, limit: int, check: Callable[[int], None] = lambda size: None) -> bytes:
    """Gunzip (all members of) `body`, never making more than `limit` bytes; other requests run in between. `check` is called with
    how many there are while they become more. Raises Problem: 413 (more), 400 (broken)."""
    unpacked, position = bytearray(), 0
    for _ in range(_MAX_MEMBERS):
        position = _unpack_member(body, position, unpacked, limit, check)
        if position == len(body):
            return bytes(unpacked)
    raise Problem(ProblemType.MALFORMED_BODY, f"The gzip body has more than {_MAX_MEMBERS} members.")


def _unpack_member(body: bytes, position: int, unpacked: bytearray, limit: int, check: Callable[[int], None]) -> int:
    """Add what the member at `position` contains; where it ends."""
    member = zlib.decompressobj(wbits=31)
    while body and not member.eof:
        pause_if_due()
        # In steps: a few bytes may make many, and zlib copies what follows a member, of which a body may have many.
        packed = member.unconsumed_tail
        if not packed:
            packed = body[position : position + _PACKED]
            position += len(packed)
        try:
            made = member.decompress(packed, min(_UNPACKED, limit + 1 - len(unpacked)))
        except zlib.error:
            raise Problem(ProblemType.MALFORMED_BODY, "Content-Encoding is gzip, but the body is not.") from None
        unpacked += made
        if len(unpacked) > limit:
            raise too_large(limit)
        check(len(unpacked))
        if not packed and not made and not member.eof:
            raise Problem(ProblemType.MALFORMED_BODY, "The gzip body is cut off before its end.")
    return position - len(member.unused_data)
