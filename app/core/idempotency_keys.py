"""What an idempotency key may be, in every API."""

from __future__ import annotations

import re
from typing import Any

MAX_LENGTH = 255
_PRINTABLE = re.compile(r"[\x20-\x7e]+")


def is_idempotency_key(value: Any, max_length: int = MAX_LENGTH) -> bool:
    """Whether a value can be an idempotency key: a text of printable ASCII characters."""
    return isinstance(value, str) and len(value) <= max_length and _PRINTABLE.fullmatch(value) is not None


def describe_rule(max_length: int = MAX_LENGTH) -> str:
    """What a 422 says of a value that is none."""
    return f"must be 1 to {max_length} printable ASCII characters"
