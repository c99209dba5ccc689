"""What the schemas of the management API share: times, exact JSON, documents, and pages of lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from marshmallow import RAISE, Schema, ValidationError, fields, validate

from app.api.management.access import current
from app.core.ids import utc_text
from app.services.context import AppContext

Row = TypeVar("Row")
DEFAULT_PAGE, MAX_PAGE = 50, 100
_REQUEST_ERRORS = {"unknown": "is unknown", "type": "must be an object"}
# Characters of a filter.
MAX_TEXT = 255


class Timestamp(fields.DateTime):
    """A point in time: in answers in UTC with microseconds, in requests with any offset."""

    def _serialize(self, value: Any, *arguments: Any, **options: Any) -> Any:
        return None if value is None else utc_text(value)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> datetime:
        try:
            found = datetime.fromisoformat(value.upper() if isinstance(value, str) else "")
            if found.tzinfo is not None:
                return found.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        raise ValidationError("must be a time with an offset, such as 2026-11-29T18:00:00Z")


class ExactJson(fields.Field[Any]):
    """A JSON text of the database, which is sent with every digit."""

    def _serialize(self, value: Any, *arguments: Any, **options: Any) -> Any:
        return None if value is None else msgspec.Raw(value.encode())


class Pattern(validate.Regexp):
    """A whole text that matches; marshmallow's own allows a line break at the end."""

    def __call__(self, value: Any) -> Any:
        if not self.regex.fullmatch(value):
            raise ValidationError(self.error or self.default_message)
        return value


def text(**options: Any) -> fields.String:
    """A filter of text."""
    return fields.String(validate=validate.Length(min=1, max=MAX_TEXT), **options)


def described(description: str, example: Any = None, **more: Any) -> dict[str, Any]:
    """What the API's document says of a field."""
    return {"description": description, **({} if example is None else {"example": example}), **more}


class RequestSchema(Schema):
    """A body of a request: a field that it does not have is refused."""

    error_messages = _REQUEST_ERRORS

    class Meta:
        unknown = RAISE


class PageQuery(Schema):
    """The size of a page of a list."""

    limit = fields.Integer(
        load_default=DEFAULT_PAGE,
        strict=False,
        validate=validate.Range(1, MAX_PAGE),
        metadata=described("How many items at most."),
    )


class PageByIdQuery(PageQuery):
    """A page of a list that is ordered by ids."""

    after = fields.UUID(metadata=described("The `next` of the page before."))


class PageByNameQuery(PageQuery):
    """A page of a list that is ordered by names."""

    after = text(metadata=described("The `next` of the page before."))


def page_of(schema: type[Schema], name: str) -> type[Schema]:
    """The schema of a page of items."""
    members: dict[str, fields.Field[Any]] = {
        "items": fields.List(fields.Nested(schema), required=True),
        "next": fields.String(
            required=True,
            allow_none=True,
            metadata=described("Send it as `after` for the next page; null: this is the last."),
        ),
    }
    return Schema.from_dict(members, name=name)


def read_page(
    query: Mapping[str, Any], find: Callable[[Any, int], Sequence[Row]], cursor: Callable[[Row], UUID | str | int]
) -> dict[str, Any]:
    """A page of the rows that `find` returns, for a cursor (None: the first page) and a number of rows."""
    limit: int = query["limit"]
    found = find(query.get("after"), limit + 1)
    return {"items": found[:limit], "next": str(cursor(found[limit - 1])) if len(found) > limit else None}


def read_filtered_page(
    query: Mapping[str, Any], find: Callable[[AppContext, int, Any, int], Sequence[Any]], wanted: Any
) -> dict[str, Any]:
    """A page of the rows of the account that pass a filter, in the order of their ids; the filter has the cursor as `before`."""
    access = current()
    return read_page(
        query,
        lambda after, limit: find(access.context, access.account_id, replace(wanted, before=after), limit),
        lambda row: row.id,
    )
