"""The JSON bodies and query parameters of the management API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NoReturn

from flask import Request, current_app, g, request
from marshmallow import Schema, ValidationError
from webargs.flaskparser import FlaskParser

from app.api.request_body import read_body
from app.core.errors import Problem, ProblemType
from app.core.exact_json import read_value
from app.services.context import AppContext
from app.workflows.yaml_loader import Mistake

# Mistakes of a body that are named, and its members.
_MAX_MISTAKES, _MAX_MEMBERS = 100, 1_000
# Bytes of a body: a document has at most 256 KiB, and may be a text within JSON.
MAX_BODY = 1024 * 1024


def sent_body() -> bytes:
    """The body of the request; empty when none was sent. Raises Problem."""
    if "body" not in g:
        context: AppContext = current_app.extensions["context"]
        is_empty = not request.content_length and not request.content_type
        g.body = b"" if is_empty else read_body(
            request, limit=MAX_BODY, seconds=context.settings.body_timeout, media_types=("application/json",)
        )  # fmt: skip
    body: bytes = g.body
    return body


class Parser(FlaskParser):
    """Reads bodies as the receivers do, with every digit, and reports all mistakes as one Problem."""

    def load_json(self, req: Request, schema: Schema) -> Any:
        """The value of the body; an empty object when there is none. Raises Problem."""
        body = sent_body()
        value = read_value(body) if body else {}
        if isinstance(value, dict) and len(value) > _MAX_MEMBERS:
            raise invalid([{"field": "", "message": f"has more than {_MAX_MEMBERS} members"}])
        return value

    def handle_error(self, error: ValidationError, req: Request, schema: Schema, **options: Any) -> NoReturn:
        """Raises Problem 422 with the mistakes."""
        messages: dict[str, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]
        mistakes = (
            {"field": field, "message": message}
            for found in messages.values()
            for field, message in _flatten(found if isinstance(found, Mapping) else {"": found})
        )
        raise invalid(list(islice(mistakes, _MAX_MISTAKES)))


def invalid(errors: list[dict[str, Any]]) -> Problem:
    """The 422 with these mistakes: each has `field` and `message`."""
    detail = "; ".join(f"{one['field']}: {one['message']}" if one["field"] else one["message"] for one in errors)
    return Problem(ProblemType.VALIDATION_FAILED, detail[:1_000], errors=errors)


def invalid_document(mistakes: Iterable[Mistake]) -> Problem:
    """The 422 with the mistakes of a document, and where they are in it."""
    return invalid(
        [
            {"field": mistake.path, "message": mistake.message, "line": mistake.line, "column": mistake.column}
            for mistake in mistakes
        ]
    )


def check_query(known: frozenset[str]) -> None:
    """Raises Problem 422 for query parameters that the route does not have, since a filter with a mistake in its name would
    otherwise select everything."""
    unknown = sorted(set(request.args) - known)
    if unknown:
        raise invalid([{"field": name[:80], "message": "is unknown"} for name in unknown[:20]])


def _flatten(messages: Mapping[Any, Any], parent: str = "") -> Iterator[tuple[str, str]]:
    for name, value in messages.items():
        own = "" if name == "_schema" else str(name)[:80]
        path = f"{parent}.{own}" if parent and own else parent or own
        if isinstance(value, Mapping):
            yield from _flatten(value, path)
        else:
            yield from ((path, str(text)) for text in (value if isinstance(value, list) else [value]))
