"""The JSON Schema (draft 07) of a source document, for editors that complete and validate while typing.

It is built from the constants that the checks use. A schema cannot validate CEL, Liquid, and what a document needs besides its
preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.core.durations import SHAPE
from app.workflows.sources import document, event_rules
from app.workflows.sources.preset_files import find_preset, preset_names
from app.workflows.sources.schemes_schema import handshake_schema, verify_schema
from app.workflows.validate import NAME

Schema = dict[str, Any]

_SECRET: Schema = {
    "type": "string",
    "pattern": rf"^\s*{document.SECRET.pattern}\s*$",
    "examples": ["{{ secrets.SHOPIFY }}"],
}
# The schemas of the fields of each section.
_FIELDS: Mapping[str, Mapping[str, Schema]] = {
    "source": {
        "name": {"type": "string", "pattern": f"^{NAME.pattern}$", "description": "unique in the account"},
        "description": {"type": "string", "description": "what the source is for"},
        "provider": {"description": "the preset: verification, handshake, names, persons, dedupe ids"},
        "listener": {
            "type": "string",
            "pattern": f"^{document.LISTENER.pattern}$",
            "examples": ["LI1"],
            "description": "the CxEngage listener whose posts are deliveries of the source, too",
        },
        "secrets": {
            "type": "array",
            "items": _SECRET,
            "minItems": 1,
            "maxItems": document.MAX_SECRETS,
            "description": "what deliveries are verified with; one that fits is enough",
        },
        "verify_token": {**_SECRET, "description": "what the provider sends when it tests the URL"},
        "region": {
            "type": "string",
            "pattern": "^[A-Z]{2}$",
            "examples": ["IN"],
            "description": "the country of phone numbers without a country code",
        },
        "events": {
            "type": "array",
            "minItems": 1,
            "maxItems": event_rules.MAX_ENTRIES,
            "description": "what of a delivery becomes events; without it, a delivery is one event",
        },
        "map": {"description": "where the fields of an event are"},
        "unverified": {
            "enum": list(document.UNVERIFIED),
            "default": document.UNVERIFIED[0],
            "description": "what becomes of deliveries that are not verified: a 401, or they are stored",
        },
    },
    "entry": {
        "each": {
            "type": "string",
            "minLength": 1,
            "examples": ["body.line_items[]", "body[]", "body.entry[].changes[].value.messages[]"],
            "description": "the lists whose members become events",
        },
        "where": {
            "type": "string",
            "minLength": 1,
            "examples": ["item.quantity > 0"],
            "description": "CEL: only members for which it is true",
        },
        "map": {"description": "fields that only these events have"},
    },
    "map": {
        "event": {"description": "the name of the event"},
        "distinct_id": {"description": "whom the event is about; phone means the digits of the mapped phone"},
        "phone": {"description": "the phone number, with country code unless the source has a region"},
        "occurred_at": {"description": "when it happened: RFC 3339, or seconds or milliseconds since 1970"},
        "dedupe": {"description": "what is the same in each delivery of the same event"},
        "data": {"description": "the data of the event: a value, or an object of values"},
    },
}


def source_schema() -> Schema:
    """The JSON Schema of a source document."""
    presets = [{"const": name, "description": find_preset(name)["description"]} for name in preset_names()]
    further: Mapping[str, Schema] = {
        "provider": {"anyOf": presets},
        "verify": verify_schema(),
        "handshake": handshake_schema(),
        "events": {"items": _ref("entry")},
        "map": _ref("map"),
    }
    fields = _object("source", document.FIELDS, further)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Signalbox source",
        **fields,
        "required": ["name"],
        "anyOf": [{"required": ["provider"]}, {"required": ["verify", "map"]}, {"required": ["verify", "events"]}],
        "definitions": _definitions(),
    }


def _definitions() -> Mapping[str, Schema]:
    return {
        "duration": {"type": "string", "minLength": 2, "pattern": f"^{SHAPE.pattern}$"},
        "entry": _object("entry", event_rules.ENTRY_FIELDS, {"map": _ref("map")}),
        "map": _object("map", event_rules.MAP_FIELDS, _map_values()),
        "value": {
            "type": "string",
            "minLength": 1,
            "description": "a path, a Liquid text with {{ }}, or CEL",
            "examples": ["body.customer.id", "headers['x-topic']", "order_{{ body.status }}", "body.total > 100"],
        },
        "choice": {
            "anyOf": [
                _ref("value"),
                {"type": "array", "items": _ref("value"), "minItems": 1, "maxItems": event_rules.MAX_VALUES},
            ],
            "description": "a value, or several of which the first usable one counts",
        },
        "data": {
            "type": "object",
            "additionalProperties": {"anyOf": [_ref("choice"), _ref("data")]},
            "minProperties": 1,
            "maxProperties": event_rules.MAX_DATA_FIELDS,
            "description": "values by name",
        },
    }


def _map_values() -> Mapping[str, Schema]:
    optional: Schema = {"anyOf": [_ref("choice"), {"type": "null", "description": "without that of the preset"}]}
    return {
        **dict.fromkeys(event_rules.MAP_FIELDS, optional),
        "data": {"anyOf": [_ref("choice"), _ref("data")], "default": "body, or item with each"},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _object(kind: str, names: tuple[str, ...], further: Mapping[str, Schema]) -> Schema:
    """An object with these fields and no others."""
    known = _FIELDS[kind]
    return {
        "type": "object",
        "properties": {name: {**known.get(name, {}), **further.get(name, {})} for name in names},
        "additionalProperties": False,
    }
