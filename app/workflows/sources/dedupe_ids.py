"""Dedupe ids of the members of one delivery: different members that have the same one get numbers.

The number depends on the members, and not on what `map` makes of them or on whether they can be mapped: it stays the same when a
delivery is mapped again after the mapping was mended.
"""

from __future__ import annotations

import hashlib

from app.core.exact_json import ExactTexts
from app.workflows.sources.paths import Member, Parts

# The lists of the entry, and the digests of a member and of the member that encloses it.
_Content = tuple[str, bytes, bytes]


class DedupeIds:
    """Numbers the ids of one delivery; `texts` are those of its body."""

    def __init__(self, texts: ExactTexts) -> None:
        self._texts = texts
        self._first: dict[str, tuple[str, Member | None]] = {}
        self._numbers: dict[str, dict[_Content, int]] = {}
        self._digests: dict[Parts, bytes] = {}

    def number(self, dedupe: str, lists: str, member: Member | None) -> str:
        """The id of a member of the lists of an entry: `dedupe` itself for the first one that has it and for equal ones,
        `dedupe#2` for the next one."""
        first = self._first.setdefault(dedupe, (lists, member))
        # Most ids are those of one member, of which nothing has to be read.
        if first[0] == lists and first[1] is member:
            return dedupe
        known = self._numbers.setdefault(dedupe, {self._content(*first): 0})
        number = known.setdefault(self._content(lists, member), len(known))
        return f"{dedupe}#{number + 1}" if number else dedupe

    def _content(self, lists: str, member: Member | None) -> _Content:
        if member is None:
            return lists, b"", b""
        parent = self._digest(member.parents[-1][1]) if member.parents else b""
        return lists, self._digest(member.path), parent

    def _digest(self, path: Parts) -> bytes:
        found = self._digests.get(path)
        if found is None:
            found = self._digests[path] = hashlib.sha256(self._texts.at(path).encode()).digest()
        return found
