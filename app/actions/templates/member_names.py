"""Lets a template write any member with a dot: `data.offset`, `data.for`, `data.empty`.

Liquid reserves such words, also where only the name of a member is possible. `data["offset"]` means the same and is allowed, so
each member is written like that before the template is parsed. Positions in errors are those of the text as it was written.
"""

from __future__ import annotations

import re
from bisect import bisect_right

_RAW = r"\{%-?\s{0,199}raw\s{0,199}-?%\}.*?\{%-?\s{0,199}endraw\s{0,199}-?%\}"
_TAGS = re.compile(rf"{_RAW}|(?P<tag>\{{\{{.*?\}}\}}|\{{%.*?%\}})", re.DOTALL)
# The members in a tag: not in quotes, not the end of a range (`1..count`), not a number.
_MEMBERS = re.compile(r"\"[^\"]*\"|'[^']*'|(?<!\.)\.[ \t\r\n]*(?P<name>[^\W\d][\w-]*\??)")


class Source:
    """A Liquid text as it is parsed, with the positions of the text as it was written."""

    def __init__(self, written: str) -> None:
        self._written = written
        # Where the parsed text has more characters, and how many there are up to there.
        self._ends: list[int] = []
        self._added: list[int] = [0]
        self.largest_tag: re.Match[str] | None = None
        self.text = self._quote_members()

    def _quote_members(self) -> str:
        parts, copied = [], 0
        for tag in _TAGS.finditer(self._written):
            if tag["tag"] is None:
                continue
            if self.largest_tag is None or len(tag[0]) > len(self.largest_tag[0]):
                self.largest_tag = tag
            for member in _MEMBERS.finditer(self._written, *tag.span()):
                if member["name"] is None:
                    continue
                quoted = f'["{member["name"]}"]'
                parts += [self._written[copied : member.start()], quoted]
                copied = member.end()
                self._added.append(self._added[-1] + len(quoted) - (member.end() - member.start()))
                self._ends.append(copied + self._added[-1])
        return "".join(parts) + self._written[copied:]

    def position(self, index: int) -> str:
        """The line and column of an index in the parsed text."""
        return text_position(self._written, index - self._added[bisect_right(self._ends, index)])


def text_position(text: str, index: int) -> str:
    """The line and column of an index."""
    return f"line {text.count(chr(10), 0, index) + 1}, column {index - text.rfind(chr(10), 0, index)}"
