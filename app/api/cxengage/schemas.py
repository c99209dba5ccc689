"""The marshmallow schemas of CxEngage's resources.

Unknown fields are refused, except for listeners, which keep further members: CxEngage's documentation shows some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate, validates, validates_schema

from app.core.errors import Problem, ProblemType
from app.services.cxengage.listeners import MAX_JSON

MAX_NAME = 255
MAX_TEXT = 64 * 1024
MAX_MAPPED = 200
_MAX_DESCRIPTION, _MAX_PATH, _MAX_URL = 10_000, 1_000, 2_000
# Characters of all attributes of an augment, which web processes keep in memory.
_MAX_ATTRIBUTES = 16 * 1024

_TEXT_ERRORS: dict[str, Any] = {"invalid": "must be text", "null": "must be text", "required": "is required"}
_FLAG_ERRORS: dict[str, Any] = {"invalid": "must be true or false", "null": "must be true or false"}
_OBJECT_ERRORS: dict[str, Any] = {"invalid": "must be an object", "null": "must be an object"}
_SCHEMA_ERRORS = {"unknown": "is unknown", "type": "must be an object"}


def _text(**options: Any) -> fields.String:
    """A text field."""
    return fields.String(error_messages=_TEXT_ERRORS, **options)


class _Flag(fields.Field[bool]):
    """Exactly true or false; marshmallow's Boolean also accepts texts and numbers."""

    # For the API's document.
    JSON_SCHEMA: ClassVar[Mapping[str, Any]] = {"type": "boolean"}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


def _length(maximum: int, minimum: int = 0) -> validate.Length:
    allowed = f"{minimum} to {maximum}" if minimum else f"at most {maximum}"
    return validate.Length(minimum, maximum, error=f"must have {allowed} characters")


def _name() -> fields.String:
    return _text(required=True, validate=_length(MAX_NAME, 1))


class _Resource(Schema):
    """The fields of all resources. The `id` of a new resource is ignored; a change may repeat it."""

    error_messages = _SCHEMA_ERRORS

    class Meta:
        unknown = RAISE

    id = fields.Raw(allow_none=True)
    name = _name()
    description = _text(load_default="", validate=_length(_MAX_DESCRIPTION))


class TemplateSchema(_Resource):
    """A message template in Mustache."""

    template = _text(load_default="", validate=_length(MAX_TEXT))


class PatternSchema(_Resource):
    """A pattern in one of CxEngage's two notations; null removes a text."""

    status = _Flag(load_default=False, error_messages=_FLAG_ERRORS)
    when_text = _text(data_key="when", allow_none=True, load_default=None, validate=_length(MAX_TEXT))
    then_text = _text(data_key="then", allow_none=True, load_default=None, validate=_length(MAX_TEXT))
    code = _text(allow_none=True, load_default=None, validate=_length(MAX_TEXT))
    key = _text(allow_none=True, load_default=None, validate=_length(MAX_NAME, 1))


class ListenerSchema(_Resource):
    """A listener; the caller keeps the members that are not named here."""

    class Meta:
        unknown = EXCLUDE

    type = _text(load_default="", validate=_length(MAX_NAME))
    status = _Flag(load_default=True, error_messages=_FLAG_ERRORS)
    mapping = fields.Dict(required=True, error_messages={"required": "is required", **_OBJECT_ERRORS})
    options = fields.Dict(load_default=dict, error_messages=_OBJECT_ERRORS)

    @validates("mapping")
    def check_mapping(self, value: dict[str, Any], **_: Any) -> None:
        """Checks the names of the fields and the paths of their values."""
        if not 1 <= len(value) <= MAX_MAPPED:
            raise ValidationError(f"has {len(value)} fields; 1 to {MAX_MAPPED} are allowed")
        for name, path in value.items():
            if not 1 <= len(name) <= MAX_NAME:
                raise ValidationError(f"has a field of {len(name)} characters; 1 to {MAX_NAME} are allowed")
            if not isinstance(path, str) or not 1 <= len(path) <= _MAX_PATH or "" in path.split("."):
                raise ValidationError(f"{name[:40]} must be a dotted path such as interaction.author.username")
        size = len(msgspec.json.encode(value))
        if size > MAX_JSON:
            raise ValidationError(f"has {size} bytes as JSON; at most {MAX_JSON} are allowed")


# The fields of an augment that may be inside or outside of `options`.
API_FIELDS = ("url", "method", "attributes")


class _AugmentOptions(Schema):
    """The API's URL, how it is called, and the attributes to add."""

    error_messages = _SCHEMA_ERRORS

    class Meta:
        unknown = RAISE

    url = _text(allow_none=True, validate=_length(_MAX_URL, 1))
    method = _text(validate=validate.OneOf(["POST", "GET"], error="must be POST or GET"))
    attributes = fields.List(
        _text(validate=_length(MAX_NAME, 1)),
        allow_none=True,
        validate=validate.Length(1, 200, error="must have 1 to 200 names"),
        error_messages={"invalid": "must be a list of names"},
    )

    @validates("attributes")
    def check_attributes(self, value: list[str] | None, **_: Any) -> None:
        """All names together have a maximum length."""
        size = sum(map(len, value or ()))
        if size > _MAX_ATTRIBUTES:
            raise ValidationError(f"has {size} characters; at most {_MAX_ATTRIBUTES} are allowed")

    @validates("url")
    def check_url(self, value: str | None, **_: Any) -> None:
        """An HTTP URL without a password: everybody who may read augments sees it."""
        if value is None:
            return
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not value.isprintable() or " " in value:
            raise ValidationError("must be a URL such as https://example.com/customers")
        if "@" in parts.netloc:
            raise ValidationError("must not contain a user name or a password")


_ENGINE = validate.OneOf(["engine"], error="must be engine")


class AugmentSchema(_Resource, _AugmentOptions):
    """An augment. CxEngage's documentation uses both `service` and `augment-service`."""

    class Meta(_Resource.Meta):
        pass

    type = _text(required=True, validate=validate.OneOf(["file", "api"], error="must be file or api"))
    service = _text(validate=_ENGINE)
    augment_service = _text(data_key="augment-service", validate=_ENGINE)
    options = fields.Nested(_AugmentOptions)

    @validates_schema(skip_on_field_errors=True)
    def check_no_repetition(self, data: dict[str, Any], **_: Any) -> None:
        """`url`, `method` and `attributes` are inside or outside of `options`, not both."""
        for name in API_FIELDS:
            if name in data and name in data.get("options", {}):
                raise ValidationError("occurs both inside and outside of options", name)


class IntegrationSchema(Schema):
    """An integration's `id` and `type`. Its other fields depend on its kind."""

    class Meta:
        unknown = EXCLUDE

    id = _text()
    type = _text()


def load(schema: Schema, value: Mapping[str, Any], *, existing: str | None = None) -> dict[str, Any]:
    """The validated fields of a new resource, or the changed fields of the resource with the id `existing`. Raises
    Problem 422 with all faults."""
    try:
        loaded: dict[str, Any] = schema.load(value, partial=existing is not None)
    except ValidationError as exc:
        messages: dict[str, Any] = exc.normalized_messages()  # type: ignore[no-untyped-call]
        raise Problem(ProblemType.VALIDATION_FAILED, "; ".join(_flatten(messages))) from None
    if loaded.pop("id", existing) != existing and existing is not None:
        raise Problem(ProblemType.VALIDATION_FAILED, f"id: must be {existing}, as in the URL")
    return loaded


def _flatten(messages: Mapping[Any, Any], parent: str = "") -> Iterator[str]:
    for name, value in sorted(messages.items(), key=lambda pair: str(pair[0])):
        path = str(name)[:80] if not parent else f"{parent}[{name}]" if isinstance(name, int) else f"{parent}.{name}"
        if isinstance(value, Mapping):
            yield from _flatten(value, path)
        else:
            yield from (f"{path}: {text}" for text in (value if isinstance(value, list) else [value]))
