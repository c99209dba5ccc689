"""Runs the conformance cases of the CEL specification: `python -m tests.workflows.expressions.cel_conformance FOLDER`.

FOLDER holds the specification's `tests/simple/testdata/*.textproto` (https://github.com/google/cel-spec). A case passes when
the expression has the expected value and type, or fails where it must. Cases about protobuf messages are not counted.
"""

from __future__ import annotations

import re
import sys
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.workflows.expressions.cel import compile_filter
from app.workflows.expressions.cel_analysis import FilterError

Message = dict[str, list[Any]]

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<word>\[[^\]]*\]|[\w.+-]+) | (?P<sign>[{}<>:,;\[\]])""",
    re.VERBOSE | re.DOTALL,
)
# Their values are protobuf messages or depend on declarations of them.
_MESSAGES = re.compile(r"TestAllTypes|google\.protobuf\.(?!Timestamp\b|Duration\b)|object_value|enum_value|container:")


def read_messages(text: str) -> Message:
    """A file in protobuf's text format. Repeated fields are lists, and so are all others."""
    tokens = [(match.lastgroup or "", match.group()) for match in _TOKEN.finditer(text) if match.lastgroup]
    return _read_fields(iter(tokens))


def _read_fields(tokens: Iterator[tuple[str, str]]) -> Message:
    fields: Message = {}
    name, texts = "", list[bytes]()
    for kind, token in tokens:
        if kind == "text":
            if texts:
                fields[name].pop()
            texts.append(_unescape(token))
            fields.setdefault(name, []).append(b"".join(texts))
            continue
        if token in "}>":
            return fields
        if token in "{<":
            fields.setdefault(name, []).append(_read_fields(tokens))
            name = ""
        elif kind == "word" and not name:
            name = token
        elif kind == "word":
            fields.setdefault(name, []).append(token)
            name = ""
        if token != ":" and texts:
            name, texts = (token, []) if kind == "word" else ("", [])
    return fields


def _unescape(token: str) -> bytes:
    """The bytes of a quoted text. Its escapes are characters (`\\u00ff`) or bytes (`\\xff`, `\\377`)."""
    escapes = r"\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|\\x[0-9A-Fa-f]{1,2}|\\[0-7]{1,3}|\\.|[^\\]"

    def decode(match: re.Match[str]) -> bytes:
        part = match.group()
        if part[:2] in ("\\u", "\\U"):
            return chr(int(part[2:], 16)).encode()
        if part[:2] == "\\x":
            return bytes([int(part[2:], 16)])
        return bytes(literal_eval(f"b'{part}'")) if part[0] == "\\" else part.encode()

    return b"".join(decode(match) for match in re.finditer(escapes, token[1:-1], re.DOTALL))


def to_cel(value: Message) -> tuple[str, str | None]:
    """A value as CEL text, and the name of its type."""
    kind, (found, *_) = next(iter(value.items()))
    if kind in ("string_value", "bytes_value"):
        prefix, escape = ("b", "\\x") if kind == "bytes_value" else ("", "\\U")
        letters = found if kind == "bytes_value" else [ord(letter) for letter in found.decode()]
        width = 2 if kind == "bytes_value" else 8
        return f'{prefix}"' + "".join(f"{escape}{letter:0{width}x}" for letter in letters) + '"', kind[:-6]
    if kind in ("list_value", "map_value"):
        return _to_cel_members(kind, found), kind[:-6]
    if kind == "double_value":
        special = {"inf": "(1.0/0.0)", "+inf": "(1.0/0.0)", "-inf": "(-1.0/0.0)", "infinity": "(1.0/0.0)"}
        return special.get(found.lower()) or f"double('{found}')", "double"
    if kind == "type_value":
        return found.decode(), "type"
    return {
        "null_value": ("null", "null_type"),
        "bool_value": (found, "bool"),
        "int64_value": (str(found), "int"),
        "uint64_value": (f"{found}u", "uint"),
    }[kind]


def _to_cel_members(kind: str, found: Message) -> str:
    if kind == "list_value":
        return "[" + ", ".join(to_cel(each)[0] for each in found.get("values", [])) + "]"
    entries = found.get("entries", [])
    return "{" + ", ".join(f"{to_cel(each['key'][0])[0]}: {to_cel(each['value'][0])[0]}" for each in entries) + "}"


def run_case(case: Message) -> str | None:
    """Run a case; what is wrong, or None if it passes."""
    text, bindings = case["expr"][0].decode(), case.get("bindings", [])
    names = {each["key"][0].decode(): _to_python(each["value"][0]["value"][0]) for each in bindings}
    expected = case.get("value", [{"bool_value": ["true"]}])[0]
    is_error = "eval_error" in case
    if not is_error:
        literal, kind = to_cel(expected)
        text = f"type({text}) == {kind} && ({text}) == {literal}" if kind != "type" else f"({text}) == {literal}"
    try:
        found, reason = compile_filter(text if not is_error else f"({text}) == 1", also=names).evaluate(names)
    except FilterError as exc:
        # What is refused when it is saved cannot be evaluated either.
        return None if is_error else f"refused: {exc}"
    if is_error:
        return None if reason is not None else "has a value"
    return None if found else reason or "has another value"


def _to_python(value: Message) -> Any:
    kind, (found, *_) = next(iter(value.items()))
    if kind == "list_value":
        return [_to_python(each) for each in found.get("values", [])]
    if kind == "map_value":
        return {_to_python(each["key"][0]): _to_python(each["value"][0]) for each in found.get("entries", [])}
    if kind == "string_value":
        return found.decode()
    return {
        "null_value": lambda: None,
        "bool_value": lambda: found == "true",
        "int64_value": lambda: int(found),
        "uint64_value": lambda: int(found),
        "double_value": lambda: float(found),
        "bytes_value": lambda: found,
    }[kind]()


def run_file(path: Path) -> tuple[int, int, list[str]]:
    """Run the cases of a file: how many passed, how many were not counted, and the failures."""
    passed, skipped, failures = 0, 0, list[str]()
    for section in read_messages(path.read_text(encoding="utf-8")).get("section", []):
        for case in section.get("test", []):
            name = f"{path.stem}/{section['name'][0].decode()}/{case['name'][0].decode()}"
            if _MESSAGES.search(repr(case)) or "typed_result" in case or "check_only" in case or "container" in case:
                skipped += 1
                continue
            failure = run_case(case)
            passed += failure is None
            if failure is not None:
                failures.append(f"{name}: {case['expr'][0].decode()}: {failure}")
    return passed, skipped, failures


def main(folder: str) -> None:
    """Print the numbers of each file, and each failure."""
    for path in sorted(Path(folder).glob("*.textproto")):
        passed, skipped, failures = run_file(path)
        print(f"{path.stem}: {passed} passed, {len(failures)} failed, {skipped} about messages")
        for failure in failures:
            print(f"  {failure}")


if __name__ == "__main__":
    main(sys.argv[1])
