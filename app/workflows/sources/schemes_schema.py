"""The JSON Schema of the sections `verify` and `handshake` of a source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.workflows.sources import handshakes, schemes

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": schemes.MAX_TEXT}
_NAMES: Schema = {
    "anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": schemes.MAX_LOCATIONS}],
    "description": "a header, or headers of which the first one that is there counts",
}
_LOCATION: Mapping[str, Schema] = {
    "header": _NAMES,
    "query": {**_TEXT, "description": "a parameter of the URL"},
    "body": {**_TEXT, "description": "a path in JSON, such as signature.token, or a field of a form"},
    "prefix": {**_TEXT, "description": "what comes before the value"},
}


def _object(properties: Mapping[str, Schema], required: Iterable[str] = ()) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _one_or_more(location: Schema) -> Schema:
    many = {"type": "array", "items": location, "minItems": 1, "maxItems": schemes.MAX_LOCATIONS}
    return {"anyOf": [location, many]}


def _signed(kind: str) -> Schema:
    """A section with `hmac` or `ecdsa`; without either it changes a part of a preset's section."""
    value = _one_or_more(_object(_LOCATION))
    return {
        kind: {"enum": list(schemes.ALGORITHMS[kind])},
        "encoding": {"enum": list(schemes.ENCODINGS[kind]), "description": "of the signature"},
        **_LOCATION,
        "separator": {**_TEXT, "description": "between several signatures, or between fields"},
        "fields": {
            **_object(dict.fromkeys(("signature", *schemes.VALUES), _TEXT), required=["signature"]),
            "description": "the names of fields in the header, for t=…,v1=…",
        },
        **dict.fromkeys(schemes.VALUES, value),
        "signed": {**_TEXT, "default": "{body}", "description": f"the signed text, with {_list(schemes.PARTS)}"},
        "tolerance": {
            "anyOf": [{"$ref": "#/definitions/duration"}, {"const": "none"}],
            "default": "5m",
            "description": "how old a timestamp may be, or how far in the future",
        },
        "secret_encoding": {"enum": list(schemes.SECRET_ENCODINGS), "default": "text"},
        "secret_prefix": {**_TEXT, "description": "what is removed from the secrets, such as whsec_"},
        "body_hash": {**_TEXT, "description": "the URL's parameter with the SHA-256 of a body that is not a form"},
        "public_url": {**_TEXT, "description": "scheme and host that senders call, such as https://events.example.com"},
    }


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


def verify_schema() -> Schema:
    """The JSON Schema of `verify`; it refers to the definition `duration`."""
    return {
        "description": "how a delivery proves who sent it",
        "anyOf": [
            {"const": "none", "description": "the URL is the proof"},
            _object(_signed("hmac")),
            _object(_signed("ecdsa"), required=["ecdsa"]),
            _object({"shared": _one_or_more(_object(_LOCATION))}, required=["shared"]),
            _object(
                {"basic": {**_TEXT, "description": "the user name; the password is the secret"}}, required=["basic"]
            ),
        ],
    }


def handshake_schema() -> Schema:
    """The JSON Schema of `handshake`."""
    location = _object(_LOCATION)
    fields = {
        "method": {"enum": list(handshakes.METHODS)},
        "when": _object({**_LOCATION, "equals": _TEXT}, required=["equals"]),
        "verify_token": {**location, "description": "where a handshake has the source's verify_token"},
        "challenge": {**location, "description": "the value that is the answer"},
        "allow_origin": {"type": "boolean", "description": "answer the handshake of CloudEvents"},
    }
    return {
        "description": "how the provider tests the URL",
        "anyOf": [{"const": "none"}, _object(fields, required=["method"])],
    }
