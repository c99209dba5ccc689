"""The fields of an event that a mapping makes: name, person, data, time, dedupe id.

Of each field the first usable value counts. An unusable value is a warning; without a name, person or data, `Unmapped` is raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.core.event_times import read_event_time
from app.core.exact_json import is_storable, object_text
from app.core.phone_numbers import UnusablePhone, read_phone
from app.core.subjects import MAX_SUBJECT_LENGTH, subject_text
from app.workflows.expressions.functions import describe_type
from app.workflows.sources.mapping_values import CelValue, LiquidValue, Scope, Value, ValueFault
from app.workflows.sources.paths import MISSING, ListPath, Parts

# Characters of the data of all events of a delivery together.
MAX_DATA = 32 * 1024 * 1024
# Characters of a dedupe id.
MAX_DEDUPE = 2_000
# Characters of a value that a message repeats, and characters of a message.
_MAX_SHOWN, MAX_MESSAGE = 80, 500


@dataclass(frozen=True, slots=True)
class Choice:
    """A field of `map`: its path in the document, and its values, of which the first usable one counts."""

    path: str
    values: tuple[Value, ...] = ()

    def __str__(self) -> str:
        return ", ".join(value.text for value in self.values)


# `data` as an object: each name has a value, or an object again.
DataFields = Mapping[str, "Choice | DataFields"]


@dataclass(frozen=True, slots=True)
class EventRule:
    """An entry of `events`. `suffix`: what makes its dedupe ids differ from those of other entries. `member_key`: the lists that
    it goes through, which stay the same when the values of the entry are changed."""

    path: str
    each: ListPath | None
    where: CelValue | None
    event: Choice
    distinct_id: Choice
    phone: Choice
    data: Choice | DataFields
    occurred_at: Choice
    dedupe: Choice
    suffix: str = ""
    member_key: str = ""

    @property
    def is_costly(self) -> bool:
        """Whether there is more than paths to evaluate."""
        return self.where is not None or any(
            isinstance(value, LiquidValue) or (isinstance(value, CelValue) and not value.is_fixed)
            for value in self._values()
        )

    @property
    def reads(self) -> Iterator[Parts]:
        """The paths that its values and its condition read."""
        for value in self._values():
            yield from value.reads
        if self.where is not None:
            yield from self.where.reads

    def _values(self) -> Iterator[Value]:
        for field in (self.event, self.distinct_id, self.phone, self.data, self.occurred_at, self.dedupe):
            yield from _values_of(field)


def _values_of(field: Choice | DataFields) -> Iterator[Value]:
    if isinstance(field, Choice):
        yield from field.values
        return
    for member in field.values():
        yield from _values_of(member)


class TooLarge(Exception):
    """The data of all events together are larger than MAX_DATA."""


class Unmapped(Exception):
    """A member cannot become an event."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def _find(value: Value, scope: Scope) -> Any:
    """The value, or None if it is missing, null, or cannot be calculated."""
    try:
        found = value.find(scope)
    except ValueFault:
        return None
    return None if found is MISSING else found


def find_text(choice: Choice, scope: Scope, description: str) -> str:
    """The first usable text or number of a required field. Raises Unmapped."""
    faults = []
    for value in choice.values:
        try:
            found = value.find(scope)
        except ValueFault as exc:
            faults.append(f"{value.text}: {exc}")
            continue
        text = _storable(subject_text(found))
        if text is not None:
            return text
        if found is not MISSING and found is not None:
            faults.append(
                f"{value.text} is {_shown(found)}, not text or a number of 1 to {MAX_SUBJECT_LENGTH} characters"
            )
    message = "; ".join(faults) or f"nothing at {choice}"
    raise Unmapped(choice.path, f"{description} is missing: {message}"[:MAX_MESSAGE])


def find_phone(choice: Choice, scope: Scope, region: str | None, extra: dict[str, str]) -> tuple[str | None, str]:
    """The number, or None and what is wrong with the first that was sent, which goes to `extra`."""
    fault = ""
    for value in choice.values:
        sent = _find(value, scope)
        if sent is None or sent == "":
            continue
        try:
            phone = read_phone(sent, region)
        except UnusablePhone as exc:
            if not fault:
                fault = str(exc)
                extra["phone"] = value.to_json(scope, sent)
            continue
        extra.pop("phone", None)
        return phone, ""
    return None, fault


def find_person(choice: Choice, scope: Scope, phone: str | None, phone_fault: str) -> str:
    """Whom the event is about: the digits of the phone if nothing else is usable. Raises Unmapped."""
    digits = None if phone is None else phone[1:]
    if digits is not None:
        scope.variables["phone"] = digits
    try:
        return find_text(choice, scope, "whom the event is about")
    except Unmapped as exc:
        if digits is not None:
            return digits
        more = f", and the phone {phone_fault}" if phone_fault else ", and no phone"
        raise Unmapped(exc.path, f"{exc.message}{more}") from None


def _storable(text: str | None) -> str | None:
    return text if text is not None and text.strip() and is_storable(text) else None


def _shown(value: Any) -> str:
    return repr(value[:_MAX_SHOWN]) if isinstance(value, str) else describe_type(value)


def find_data(data: Choice | DataFields, scope: Scope, warnings: list[str]) -> tuple[Mapping[str, Any], str]:
    """The data and their JSON text."""
    if not isinstance(data, Choice):
        values, texts = _data_fields(data, scope, warnings, "")
        return values, object_text(texts)
    found, value = _first(data, scope)
    if value is None:
        raise Unmapped(data.path, f"the data are missing: {_reason(data, scope)}")
    text = value.to_json(scope, found)
    if isinstance(found, dict):
        return found, text
    return {"value": found}, object_text({"value": text})


def _data_fields(
    fields: DataFields, scope: Scope, warnings: list[str], path: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of an object of values, and their JSON texts; a field that is missing is left out."""
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    size = 0
    for name, field in fields.items():
        if not isinstance(field, Choice):
            values[name], inner = _data_fields(field, scope, warnings, f"{path}{name}.")
            texts[name] = object_text(inner)
            size += len(texts[name])
            continue
        found, value = _first(field, scope)
        if value is None:
            warnings.append(f"data.{path}{name}: {_reason(field, scope)}; the field was left out")
        else:
            values[name], texts[name] = found, value.to_json(scope, found)
            size += len(texts[name])
        # A path may lead to the whole body again and again.
        if size > MAX_DATA:
            raise TooLarge
    return values, texts


def _first(choice: Choice, scope: Scope) -> tuple[Any, Value | None]:
    """The first value that is not null, with the `Value` that found it; else null if there was one, else (MISSING, None)."""
    null: Value | None = None
    for value in choice.values:
        try:
            found = value.find(scope)
        except ValueFault:
            continue
        if found is None:
            null = null or value
        elif found is not MISSING:
            return found, value
    return (None, null) if null is not None else (MISSING, None)


def _reason(choice: Choice, scope: Scope) -> str:
    for value in choice.values:
        try:
            value.find(scope)
        except ValueFault as exc:
            return f"{value.text}: {exc}"
    return f"nothing at {choice}"


def find_time(choice: Choice, scope: Scope, extra: dict[str, str], warnings: list[str]) -> datetime | None:
    """When the event happened; a value that is not a time goes to `extra`."""
    unusable = ""
    for value in choice.values:
        sent = _find(value, scope)
        if sent is None or sent == "":
            continue
        if (time := read_event_time(sent)) is not None:
            extra.pop("occurred_at", None)
            return time
        if not unusable:
            unusable = _shown(sent)
            extra["occurred_at"] = value.to_json(scope, sent)
    if unusable:
        warnings.append(
            f"occurred_at: {unusable} is neither RFC 3339 with an offset nor a number of seconds or milliseconds since 1970; "
            "what was sent is in extra"
        )
    return None


def find_dedupe(rule: EventRule, index: int | None, scope: Scope, warnings: list[str]) -> str | None:
    """The id by which a repeated delivery is recognised. The id of a whole delivery gets the position of the member."""
    for value in rule.dedupe.values:
        text = subject_text(found) if not isinstance(found := _find(value, scope), str) else found
        text = _storable(text)
        if text is None or len(text) > MAX_DEDUPE:
            continue
        if value.is_of_member:
            return text
        position = "" if index is None else str(index)
        suffix = ".".join(part for part in (rule.suffix, position) if part)
        return f"{text}#{suffix}" if suffix else text
    if rule.dedupe.values:
        warnings.append(f"dedupe: {_reason(rule.dedupe, scope)}; a repeated delivery is not recognised")
    return None
