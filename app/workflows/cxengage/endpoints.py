"""The endpoints of CxEngage that have a step here: what their parameters are called there and here.

Comes in: the words after a verb and the parameters, made ready. Goes out: a step. An endpoint or a parameter for which there is
nothing here is Unexpected at its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.workflows.cxengage.errors import one_of
from app.workflows.cxengage.parser import Form, Keyword, Node, a_word, unexpected

# What a text field of a step holds: Liquid, or {mustache: …}; or several of them.
Written = Any


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One kind of interaction: the step's `verb`, our field for each parameter, which fields there have to be, and in which
    of them (one at least) the `words` stand that are sent."""

    verb: str
    fields: Mapping[str, str]
    needs: Mapping[str, str]
    words: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ("create", "perform")
    # The field that may have several values.
    lists: str = ""
    # What the answer calls otherwise than CxEngage did.
    answers: Mapping[str, str] = field(default_factory=dict)


_OF_TWILIO = {"call-id": "sid", "call-status": "status"}
ENDPOINTS: Mapping[tuple[str, str], Endpoint] = {
    ("echo", "message"): Endpoint(
        "log", {"message": "text"}, {}, verbs=("fetch", "perform", "create", "update", "delete")
    ),
    ("twilio", "sms"): Endpoint(
        "sms",
        {
            "to-phone-number": "to",
            "to": "to",
            "from-phone-number": "from",
            "from": "from",
            "message": "text",
            "body": "text",
        },
        {"to": ":to-phone-number"},
        ("text",),
        answers=_OF_TWILIO,
    ),
    ("twilio", "call"): Endpoint(
        "call",
        {
            "to-phone-number": "to",
            "to": "to",
            "from-phone-number": "from",
            "from": "from",
            "message": "say",
            "url": "url",
        },
        {"to": ":to-phone-number"},
        ("say", "url"),
        answers=_OF_TWILIO,
    ),
    ("sendgrid", "email"): Endpoint(
        "sendgrid",
        {
            "to": "to",
            "from": "from",
            "subject": "subject",
            "message": "text",
            "body": "text",
            "text": "text",
            "html": "html",
        },
        {"to": ":to"},
        ("text", "html"),
        lists="to",
    ),
    ("generic", "message"): Endpoint("message", {"body": "text", "message": "text"}, {"text": ":body"}),
}


def find_endpoint(name: Node, action: Node) -> Endpoint:
    """The endpoint that two words name; raises Unexpected."""
    known = list(dict.fromkeys(endpoint for endpoint, _ in ENDPOINTS))
    endpoint = a_word(name, one_of(known)).name
    if endpoint not in known:
        raise unexpected(name, f"an endpoint that has a step: {one_of(known)}")
    actions = [action for other, action in ENDPOINTS if other == endpoint]
    done = a_word(action, one_of(actions)).name
    if done not in actions:
        raise unexpected(action, f'{one_of(actions)} of "{endpoint}"')
    return ENDPOINTS[endpoint, done]


@dataclass(frozen=True, slots=True)
class Given:
    """One parameter as the author gave it: its key, what a step takes for its value, and where that stands."""

    key: Keyword
    value: Written
    node: Node


def step_of(endpoint: Endpoint, given: list[Given], around: Form, subject: str) -> dict[str, Any]:
    """The step of an interaction; what has no subject or no words of its own has the name of its pattern (`subject`)."""
    fields = _fields(endpoint, given)
    for needed, told in endpoint.needs.items():
        if needed not in fields:
            raise unexpected(around, f"{told} among the parameters", "none")
    if endpoint.verb == "log":
        return {"log": fields.get("text", "")}
    if endpoint.verb == "call" and "url" in fields and "say" in fields:
        raise unexpected(around, "either :message or :url", "both")
    if endpoint.verb == "sendgrid":
        fields.setdefault("subject", subject)
    if endpoint.words and fields.keys().isdisjoint(endpoint.words):
        fields[endpoint.words[0]] = fields.get("subject", subject)
    order = list(dict.fromkeys(endpoint.fields.values()))
    return {endpoint.verb: {field: fields[field] for field in order if field in fields}}


def _fields(endpoint: Endpoint, given: list[Given]) -> dict[str, Written]:
    """The parameters by our names."""
    fields: dict[str, Written] = {}
    for each in given:
        field = endpoint.fields.get(each.key.name)
        if field is None:
            raise unexpected(each.key, one_of(f":{name}" for name in endpoint.fields))
        if field in fields:
            raise unexpected(each.key, f'"{field}" once', f'":{each.key.name}"')
        if isinstance(each.value, list) and (field != endpoint.lists or not each.value):
            raise unexpected(each.node, "one text, number or template", "a vector" if each.value else "an empty vector")
        fields[field] = each.value
    return fields
