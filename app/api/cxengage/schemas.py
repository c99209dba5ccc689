"""What CxEngage's resources look like, as marshmallow schemas, and their mistakes as one sentence.

A field that a resource does not have is refused by its name; only listeners keep further members as they were given, since
CxEngage's own documentation puts some of them beside the named ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate, validates, validates_schema

from app.core.errors import Problem, ProblemType

LONGEST_NAME = 255
LONGEST_TEXT = 64 * 1024
MOST_MAPPED = 200
_LONGEST_DESCRIPTION, _LONGEST_PATH, _LONGEST_URL = 10_000, 1_000, 2_000
_GIVEN_BY_US = "is given by the service and cannot be chosen"

_NO_TEXT: dict[str, Any] = {"invalid": "has to be text", "null": "has to be text", "required": "is missing"}
_NO_FLAG: dict[str, Any] = {"invalid": "has to be true or false", "null": "has to be true or false"}
_NO_OBJECT: dict[str, Any] = {"invalid": "has to be an object", "null": "has to be an object"}
_UNKNOWN = {"unknown": "is unknown", "type": "has to be an object"}


def _text(**options: Any) -> fields.String:
    """Text, as it was sent."""
    return fields.String(error_messages=_NO_TEXT, **options)


class _Flag(fields.Field[bool]):
    """true or false, and nothing that stands for them."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


def _up_to(most: int, least: int = 0) -> validate.Length:
    told = f"has to have {least} to {most} characters" if least else f"has to have at most {most} characters"
    return validate.Length(least, most, error=told)


def _name() -> fields.String:
    return _text(required=True, validate=_up_to(LONGEST_NAME, 1))


class _Resource(Schema):
    """What all resources have. `id` may be said again where it is known."""

    error_messages = _UNKNOWN

    class Meta:
        unknown = RAISE

    id = _text()
    name = _name()
    description = _text(load_default="", validate=_up_to(_LONGEST_DESCRIPTION))


class TemplateSchema(_Resource):
    """A text in Mustache."""

    template = _text(load_default="", validate=_up_to(LONGEST_TEXT))


class PatternSchema(_Resource):
    """A pattern in one of CxEngage's two notations; null takes a text away."""

    status = _Flag(load_default=False, error_messages=_NO_FLAG)
    when_text = _text(data_key="when", allow_none=True, load_default=None, validate=_up_to(LONGEST_TEXT))
    then_text = _text(data_key="then", allow_none=True, load_default=None, validate=_up_to(LONGEST_TEXT))
    code = _text(allow_none=True, load_default=None, validate=_up_to(LONGEST_TEXT))
    key = _text(allow_none=True, load_default=None, validate=_up_to(LONGEST_NAME, 1))


class ListenerSchema(_Resource):
    """Where a third party posts; what is not named here is for the caller to keep."""

    class Meta:
        unknown = EXCLUDE

    type = _text(load_default="", validate=_up_to(LONGEST_NAME))
    status = _Flag(load_default=True, error_messages=_NO_FLAG)
    mapping = fields.Dict(required=True, error_messages={"required": "is missing", **_NO_OBJECT})
    options = fields.Dict(load_default=dict, error_messages=_NO_OBJECT)

    @validates("mapping")
    def has_names_and_paths(self, value: dict[str, Any], **_: Any) -> None:
        """Each field is a name, and what it is taken from a path."""
        if not 1 <= len(value) <= MOST_MAPPED:
            raise ValidationError(f"has {len(value)} fields; it has to have 1 to {MOST_MAPPED}")
        for name, path in value.items():
            if not 1 <= len(name) <= LONGEST_NAME:
                raise ValidationError(f"has a field of {len(name)} characters; 1 to {LONGEST_NAME} are allowed")
            if not isinstance(path, str) or not 1 <= len(path) <= _LONGEST_PATH or "" in path.split("."):
                raise ValidationError(f"{name[:40]} has to be a dotted path such as interaction.author.username")


class _AugmentOptions(Schema):
    """Where an API is asked and what may be added; both may also stand outside of `options`."""

    error_messages = _UNKNOWN

    class Meta:
        unknown = RAISE

    url = _text(allow_none=True, validate=_up_to(_LONGEST_URL, 1))
    attributes = fields.List(
        _text(validate=_up_to(LONGEST_NAME, 1)),
        allow_none=True,
        validate=validate.Length(1, 200, error="has to have 1 to 200 names"),
        error_messages={"invalid": "has to be a list of names"},
    )

    @validates("url")
    def is_a_web_address(self, value: str | None, **_: Any) -> None:
        """Something that can be called, without a password in it: everybody who reads augments would see it."""
        if value is None:
            return
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not value.isprintable() or " " in value:
            raise ValidationError("has to be a URL such as https://example.com/customers")
        if "@" in parts.netloc:
            raise ValidationError("must not have a user name or a password in it")


_ENGINE = validate.OneOf(["engine"], error="has to be engine; others are not supported")


class AugmentSchema(_Resource, _AugmentOptions):
    """What is known beside the events. CxEngage's documentation has `service` as well as `augment-service`."""

    class Meta(_Resource.Meta):
        pass

    type = _text(required=True, validate=validate.OneOf(["file", "api"], error="has to be file or api"))
    service = _text(validate=_ENGINE)
    augment_service = _text(data_key="augment-service", validate=_ENGINE)
    options = fields.Nested(_AugmentOptions)

    @validates_schema(skip_on_field_errors=True)
    def says_everything_once(self, data: dict[str, Any], **_: Any) -> None:
        """Inside of options or outside, not both."""
        for name in ("url", "attributes"):
            if name in data and name in data.get("options", {}):
                raise ValidationError("stands inside of options and outside", name)


class IntegrationSchema(Schema):
    """The fields of an integration, all of them text; which there are is the kind's business."""

    class Meta:
        unknown = EXCLUDE

    id = _text()
    type = _text()


def load(schema: Schema, value: Mapping[str, Any], *, known: str | None = None) -> dict[str, Any]:
    """The checked fields of a new resource, or those that are to be changed of the one with the id `known`; raises Problem
    400 with all that is wrong."""
    try:
        loaded: dict[str, Any] = schema.load(value, partial=known is not None)
    except ValidationError as wrong:
        messages: dict[str, Any] = wrong.normalized_messages()  # type: ignore[no-untyped-call]
        raise Problem(ProblemType.VALIDATION_FAILED, "; ".join(_told(messages))) from None
    if loaded.pop("id", known) != known:
        raise Problem(ProblemType.VALIDATION_FAILED, f"id: {_GIVEN_BY_US}")
    return loaded


def _told(messages: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    for name, said in sorted(messages.items(), key=lambda pair: str(pair[0])):
        place = str(name)[:80] if not above else f"{above}[{name}]" if isinstance(name, int) else f"{above}.{name}"
        if isinstance(said, Mapping):
            yield from _told(said, place)
        else:
            yield from (f"{place}: {text}" for text in (said if isinstance(said, list) else [said]))
