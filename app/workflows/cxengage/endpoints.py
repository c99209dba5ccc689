"""The supported endpoints of CxEngage, and the steps that they become. Others raise Unexpected at their position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.workflows.cxengage.notation_parser import Form, Keyword, Node, expect_word, one_of, unexpected, unsupported

# A text field of a step: Liquid, {mustache: …}, or a list of these.
TextField = Any


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One kind of interaction.

    `action` is the name of the step; `fields` maps parameters to the step's fields; `required` maps fields, of which at least
    one has to be given, to the parameters that errors name.
    """

    action: str
    fields: Mapping[str, str]
    required: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    verbs: tuple[str, ...] = ("create", "perform")
    # The field that may be a list.
    list_field: str = ""
    # Fields of the response whose names differ from CxEngage's.
    response_names: Mapping[str, str] = field(default_factory=dict)


# The first arguments of a list that calls an endpoint.
AN_INTERACTION = ("an endpoint", "an action of the endpoint")
_PHONES = {"to-phone-number": "to", "to": "to", "from-phone-number": "from", "from": "from"}
_TO_PHONE: Mapping[tuple[str, ...], str] = {("to",): ":to-phone-number"}
_TWILIO_RESPONSE = {"call-id": "sid", "call-status": "status"}
_EMAIL = {name: name for name in ("to", "from", "subject", "text", "html")} | {"message": "text", "body": "text"}
ENDPOINTS: Mapping[tuple[str, str], Endpoint] = {
    ("echo", "message"): Endpoint("log", {"message": "text"}, verbs=("fetch", "perform", "create", "update", "delete")),
    ("twilio", "sms"): Endpoint(
        "sms",
        {**_PHONES, "message": "text", "body": "text"},
        {**_TO_PHONE, ("text",): ":message"},
        response_names=_TWILIO_RESPONSE,
    ),
    ("twilio", "call"): Endpoint(
        "call",
        {**_PHONES, "message": "say", "url": "url"},
        {**_TO_PHONE, ("say", "url"): ":message or :url"},
        response_names=_TWILIO_RESPONSE,
    ),
    ("sendgrid", "email"): Endpoint(
        "sendgrid",
        _EMAIL,
        {("to",): ":to", ("subject",): ":subject", ("text", "html"): ":message or :html"},
        list_field="to",
    ),
    ("generic", "message"): Endpoint("message", {"body": "text", "message": "text"}, {("text",): ":body"}),
}


def find_endpoint(name: Node, action: Node) -> Endpoint:
    """The endpoint with a name and an action; raises Unexpected."""
    known = list(dict.fromkeys(endpoint for endpoint, _ in ENDPOINTS))
    endpoint = expect_word(name, one_of(known)).name
    if endpoint not in known:
        raise unsupported(name, f"call its API by an http step of a workflow, or use {one_of(known)}")
    actions = [action for other, action in ENDPOINTS if other == endpoint]
    chosen = expect_word(action, one_of(actions)).name
    if chosen not in actions:
        raise unexpected(action, f'{one_of(actions)} of "{endpoint}"')
    return ENDPOINTS[endpoint, chosen]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: its key, the value for the step, and the node of the value."""

    key: Keyword
    value: TextField
    node: Node


def step_of(endpoint: Endpoint, params: list[Parameter], form: Form) -> dict[str, Any]:
    """The step of an interaction; raises Unexpected."""
    fields = _fields(endpoint, params)
    for names, parameter in endpoint.required.items():
        if fields.keys().isdisjoint(names):
            raise unexpected(form, f"{parameter} among the parameters", "none")
    if endpoint.action == "log":
        return {"log": fields.get("text", "")}
    if endpoint.action == "call" and "url" in fields and "say" in fields:
        raise unexpected(form, "either :message or :url", "both")
    order = list(dict.fromkeys(endpoint.fields.values()))
    return {endpoint.action: {field: fields[field] for field in order if field in fields}}


def _fields(endpoint: Endpoint, params: list[Parameter]) -> dict[str, TextField]:
    """The parameters by the names of the step's fields."""
    fields: dict[str, TextField] = {}
    for param in params:
        field = endpoint.fields.get(param.key.name)
        if field is None:
            raise unexpected(param.key, one_of(f":{name}" for name in endpoint.fields))
        if field in fields:
            raise unexpected(param.key, f'"{field}" only once', f'":{param.key.name}"')
        if isinstance(param.value, list) and (field != endpoint.list_field or not param.value):
            raise unexpected(
                param.node, "one text, number or template", "a vector" if param.value else "an empty vector"
            )
        fields[field] = param.value
    return fields
