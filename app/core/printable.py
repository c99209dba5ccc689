"""Which characters people can see: what Python calls printable, and those that join letters of Indian scripts and emoji."""

from __future__ import annotations

# Python calls them not printable. Without them, some Hindi words and emoji are others.
JOINERS = frozenset("\u200c\u200d")


def is_printable(text: str) -> bool:
    """Whether all of a text can be seen: it has no control characters, and none that reverse it."""
    return text.isprintable() or all(letter.isprintable() or letter in JOINERS for letter in text)
