"""Parses a CEL text that the engine has compiled into a syntax tree, for the check of types.

The grammar is that of https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.workflows.expressions.cel_analysis import tokenize

_BINARY = {
    "||": 1,
    "&&": 2,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), 3),
    **dict.fromkeys(("+", "-"), 4),
    **dict.fromkeys(("*", "/", "%"), 5),
}
_PAIRS = frozenset(("||", "&&", "==", "!=", "<=", ">="))
_CONSTANTS = {"true": "bool", "false": "bool", "null": "null"}


class UnreadableText(ValueError):
    """A text that this parser does not read."""


@dataclass(frozen=True, slots=True)
class Node:
    """A part of an expression. `kind`: literal, name, field, index, call, method, operator, choice, list or object. `text` is
    the literal, name, field, function or operator, `type` the type of a literal, `parts` are the operands or arguments, the
    receiver first, `at` the index of the first letter."""

    kind: str
    text: str
    at: int
    parts: tuple[Node, ...] = ()
    type: str = ""


def parse(text: str) -> Node:
    """The syntax tree. Raises UnreadableText."""
    parser = _Parser(text)
    node = parser.expression()
    parser.expect("")
    return node


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    """The tokens, with operators of two signs and numbers with a signed exponent as one each, and an empty one at the end."""
    found: list[_Token] = []
    for match in tokenize(text):
        token = _Token(match.lastgroup or "", match.group(), match.start())
        last = found[-1] if found else None
        if last is not None and last.at + len(last.text) == token.at and _belongs(last, token):
            kind = token.kind if token.kind == "number" else last.kind
            found[-1] = _Token(kind, last.text + token.text, last.at)
        else:
            found.append(token)
    return [*found, _Token("", "", len(text))]


def _belongs(last: _Token, token: _Token) -> bool:
    if last.kind == "sign" and token.kind == "sign":
        return last.text + token.text in _PAIRS
    if last.text == "." and token.kind == "number":
        return True
    is_open = re.fullmatch(r"[\d.]+[eE][+-]?", last.text) is not None
    return is_open and (token.kind == "number" or (token.text in ("+", "-") and last.text[-1] in "eE"))


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._index = 0

    @property
    def _token(self) -> _Token:
        return self._tokens[self._index]

    def _next(self) -> _Token:
        token = self._token
        if not token.text:
            raise UnreadableText("unexpected end")
        self._index += 1
        return token

    def _takes(self, sign: str) -> bool:
        """Whether the next token is this sign; it is taken."""
        found = self._token.kind in ("sign", "") and self._token.text == sign and bool(sign)
        self._index += found
        return found

    def expect(self, sign: str) -> None:
        """The next token has to be this sign; an empty one: the end."""
        if self._token.text != sign or self._token.kind not in ("sign", ""):
            raise UnreadableText(f"unexpected {self._token.text}")
        self._index += bool(sign)

    def expression(self) -> Node:
        """A condition with its two values, or an operation."""
        condition = self._operation(1)
        sign = self._token
        if not self._takes("?"):
            return condition
        yes = self._operation(1)
        self.expect(":")
        return Node("choice", "?", sign.at, (condition, yes, self.expression()))

    def _operation(self, level: int) -> Node:
        left = self._unary()
        while (rank := _BINARY.get(self._token.text, 0)) >= level and self._token.kind in ("sign", "word"):
            sign = self._next()
            left = Node("operator", sign.text, sign.at, (left, self._operation(rank + 1)))
        return left

    def _unary(self) -> Node:
        if self._token.kind == "sign" and self._token.text in ("!", "-"):
            sign = self._next()
            if sign.text == "-" and self._token.kind == "number" and self._token.at == sign.at + 1:
                # A negative literal: the smallest integer has no positive one.
                number = self._next()
                return self._members(_literal(_Token("number", "-" + number.text, sign.at)))
            return Node("operator", sign.text, sign.at, (self._unary(),))
        return self._members(self._primary())

    def _members(self, node: Node) -> Node:
        while True:
            sign = self._token
            if self._takes("."):
                name = self._next()
                if name.kind != "word":
                    raise UnreadableText(f"unexpected {name.text}")
                if self._takes("("):
                    node = Node("method", name.text, name.at, (node, *self._list(")")))
                else:
                    node = Node("field", name.text, name.at, (node,))
            elif self._takes("["):
                node = Node("index", "[", sign.at, (node, self.expression()))
                self.expect("]")
            else:
                return node

    def _primary(self) -> Node:
        token = self._next()
        if token.text == "(" and token.kind == "sign":
            node = self.expression()
            self.expect(")")
            return node
        if token.text == "[" and token.kind == "sign":
            return Node("list", "[", token.at, tuple(self._list("]")))
        if token.text == "{" and token.kind == "sign":
            return Node("object", "{", token.at, tuple(self._entries()))
        if token.kind == "word" and token.text not in _CONSTANTS:
            if self._takes("("):
                return Node("call", token.text, token.at, tuple(self._list(")")))
            return Node("name", token.text, token.at)
        return _literal(token)

    def _list(self, end: str) -> list[Node]:
        members: list[Node] = []
        while not self._takes(end):
            members.append(self.expression())
            if not self._takes(","):
                self.expect(end)
                break
        return members

    def _entries(self) -> list[Node]:
        """The keys and values of an object."""
        members: list[Node] = []
        while not self._takes("}"):
            members.append(self.expression())
            self.expect(":")
            members.append(self.expression())
            if not self._takes(","):
                self.expect("}")
                break
        return members


def _literal(token: _Token) -> Node:
    if token.kind == "number":
        return Node("literal", token.text, token.at, type=_number_type(token.text))
    if token.kind in ("text", "raw"):
        is_bytes = "b" in token.text[: re.search(r"[\"']", token.text).start()].lower()  # type: ignore[union-attr]
        return Node("literal", token.text, token.at, type="bytes" if is_bytes else "string")
    if token.text in _CONSTANTS:
        return Node("literal", token.text, token.at, type=_CONSTANTS[token.text])
    raise UnreadableText(f"unexpected {token.text}")


def _number_type(text: str) -> str:
    if text[-1] in "uU":
        return "uint"
    return "int" if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)", text) else "double"
