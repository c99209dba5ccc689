"""Removes a data subject from rows that are not its own: texts and JSON of runs, steps, attempts and messages, idempotency keys,
and targets. Each call goes through a page of an account's rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql

_PAGE = 2_000
# A shorter id, such as 1, is looked for as a whole text only: it may be a part of anything.
_MIN_LENGTH = 5


@dataclass(frozen=True, slots=True)
class Search:
    """How a subject is found, as regular expressions of PostgreSQL: `mask` matches what is to be masked in a text, `find` matches
    in JSON that has such a text."""

    mask: str
    find: str


def make_search(subject: str, phones: Iterable[str]) -> Search:
    """How a subject is found, by its id and its phone numbers (E.164)."""
    # Ids of phone numbers are phone numbers: their + may be missing, or be %2B.
    texts = {subject, *phones}
    numbers = {text.lstrip("+") for text in texts if re.fullmatch(r"\+?[0-9]{7,15}", text)}
    mask, find = list[str](), list[str]()
    for text in sorted(texts - numbers - {f"+{number}" for number in numbers} | numbers, key=len, reverse=True):
        in_json = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        if len(text) < _MIN_LENGTH:
            mask.append(f"^{_escape(text)}$")
            find += [f'"{_escape(form)}"' for form in in_json]
            continue
        forms = sorted({text, quote(text, safe=""), *in_json}, key=len, reverse=True)
        words = [_as_word(text, _escape(form)) for form in forms]
        mask += words
        find += words
    return Search("|".join(mask), "|".join(find))


def _as_word(text: str, pattern: str) -> str:
    """Neither a part of a longer number nor of a longer word. %2B is a + in a URL."""
    before = "[0-9]" if text[0].isdecimal() else "[[:alnum:]]"
    after = "[0-9]" if text[-1].isdecimal() else "[[:alnum:]]"
    return f"(?:(?<!{before})|(?<=%[0-9A-Fa-f][0-9A-Fa-f])){pattern}(?!{after})"


def _escape(text: str) -> str:
    return re.sub(r"([^0-9A-Za-z])", r"\\\1", text)


class Page(NamedTuple):
    """The last id of a page (None: there was none), and how many of its rows were changed or deleted."""

    last: Any
    changed: int


class _Texts(NamedTuple):
    """The columns of a table: the id that its primary key goes on with, texts, and JSON."""

    id: str
    texts: Sequence[str]
    json: Sequence[str] = ()


# Runs of others may have taken an event of the subject, and what servers answer may name anybody.
TABLES: Mapping[str, _Texts] = {
    "runs": _Texts("id", ("error", "held_by")),
    "steps": _Texts("run_id", ("error",), ("output",)),
    "attempts": _Texts("run_id", ("error",), ("request", "response")),
    "messages": _Texts("id", ("text",), ("data",)),
}


def mask_page(connection: sa.Connection, table: str, account_id: int, search: Search, after: UUID) -> Page:
    """Mask a subject in a page of a table of TABLES, after the id `after`."""
    key, texts, documents = TABLES[table]
    changes = [f"{name} = regexp_replace({name}, :mask, '***', 'g')" for name in texts]
    changes += [f"{name} = {_masked(name)}" for name in documents]
    found = [f"{name} ~ :mask" for name in texts] + [f"{name}::text ~ :find" for name in documents]
    last, changed = run_sql(
        connection,
        f"WITH page AS (SELECT {key} AS id FROM {table} WHERE account_id = :account AND {key} > :after ORDER BY {key} "
        f"LIMIT :limit), changed AS (UPDATE {table} SET {', '.join(changes)} WHERE account_id = :account "
        f"AND {key} = ANY (ARRAY(SELECT DISTINCT id FROM page)) AND ({' OR '.join(found)}) RETURNING 1) "
        "SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1), (SELECT count(*) FROM changed)",
        {"account": account_id, "after": after, "limit": _PAGE, "mask": search.mask, "find": search.find},
    ).one()
    return Page(last, changed)


def _masked(name: str) -> str:
    """SQL for JSON with *** for the subject; an empty object where that is not enough, since it is a number."""
    masked = f"mask_in_json({name}, :mask)"
    return f"CASE WHEN {name}::text !~ :find THEN {name} WHEN {masked}::text ~ :find THEN '{{}}' ELSE {masked} END"


def delete_keys(connection: sa.Connection, account_id: int, search: Search, after: str) -> Page:
    """Delete the idempotency keys of a page, after the key `after`, that contain a subject."""
    last, deleted = run_sql(
        connection,
        "WITH page AS (SELECT key FROM idempotency_keys WHERE account_id = :account AND key > :after ORDER BY key LIMIT :limit), "
        "deleted AS (DELETE FROM idempotency_keys WHERE account_id = :account AND key = ANY (ARRAY(SELECT key FROM page)) "
        "AND key ~ :mask RETURNING 1) SELECT (SELECT max(key) FROM page), (SELECT count(*) FROM deleted)",
        {"account": account_id, "after": after, "limit": _PAGE, "mask": search.mask},
    ).one()
    return Page(last, deleted)


def delete_targets(connection: sa.Connection, account_id: int, search: Search) -> int:
    """Delete the open circuits and disabled targets of an account whose URL names a subject; how many."""
    values = {"account": account_id, "mask": search.mask}
    return sum(
        run_sql(connection, f"DELETE FROM {table} WHERE account_id = :account AND target ~ :mask", values).rowcount
        for table in ("open_circuits", "disabled_targets")
    )
