"""The language of workflows as a JSON Schema, for editors that complete and check while one types.

Made of the same constants that the checks use: a field, step, action or form of pattern that the language gets is in the
schema as well; `_SAYS` tells more about it. What a schema cannot say (CEL, Liquid, ids that do not exist) `flask workflow
check` tells. Draft 07 is what editors know best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.actions import ACTIONS, retry_policy
from app.core.durations import SHAPE
from app.workflows import step_graph, validate
from app.workflows.matching import pattern_parser, rule, validate_rule

Schema = dict[str, Any]


def workflow_schema() -> Schema:
    """The JSON Schema of a workflow document."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Signalbox workflow",
        **_object("workflow", validate.FIELDS, required=("name", "on", "steps")),
        "definitions": {
            "duration": {
                "type": "string",
                "minLength": 2,
                "pattern": f"^{SHAPE.pattern}$",
                "examples": ["90s", "30m", "1h30m", "7d", "2w"],
            },
            "event": {"type": "string", "minLength": 1},
            "mustache": {
                "type": "object",
                "properties": {
                    "mustache": {"type": "string", "description": "a Mustache template, in place of a Liquid one"}
                },
                "required": ["mustache"],
                "additionalProperties": False,
            },
            "filter": {"type": "string", "minLength": 1, "examples": ["data.price > 1000"]},
            "leaf": {"anyOf": [_ref("event"), _form("event", ("event", "where"))]},
            "cancelling": _cancelling(),
            "pattern": {"anyOf": [_ref("event"), *_forms()]},
            "start": {"anyOf": [_ref("event"), *_forms(outermost=True)]},
            "steps": {"type": "array", "items": _ref("step")},
            "step": {"anyOf": [_step(verb) for verb in step_graph.VERBS]},
        },
    }


_STRICT: Schema = {"type": "boolean", "default": False}

# What is known of each field, by what has it and its name. Whatever is not here may hold anything.
_SAYS: Mapping[str, Mapping[str, Schema]] = {
    "workflow": {
        "name": {"type": "string", "pattern": f"^{validate.NAME.pattern}$", "description": "unique in the account"},
        "description": {"type": "string", "description": "what it is for"},
        "on": {
            "$ref": "#/definitions/start",
            "description": "what has to happen, at its simplest the name of an event",
        },
        "key": {
            "type": "string",
            "pattern": f"^({validate_rule.KEY.pattern})$",
            "default": rule.DISTINCT_ID,
            "description": "whose progress is counted",
        },
        "again": {
            "anyOf": [{"enum": [rule.ALWAYS, rule.ONCE]}, {"$ref": "#/definitions/duration"}],
            "default": rule.ALWAYS,
            "description": "how soon it may start again for the same subject",
        },
        "exit_on": {"$ref": "#/definitions/leaf", "description": "the event that ends a run wherever it stands"},
        "strict": {**_STRICT, "description": "what is not there is an error in templates, and not just empty"},
        "steps": {
            "type": "array",
            "items": {"$ref": "#/definitions/step"},
            "minItems": 1,
            "description": "what is to be done, one after the other",
        },
    },
    "pattern": {
        "event": {"$ref": "#/definitions/event", "description": "one event of this name; * is any"},
        "where": {"$ref": "#/definitions/filter", "description": "CEL: only events for which it is true"},
        "within": {"$ref": "#/definitions/duration", "description": "its last event at most this long after its first"},
        "unless": {"$ref": "#/definitions/cancelling", "description": "no such event between its first and its last"},
        "times": {
            "type": "integer",
            "minimum": 1,
            "maximum": pattern_parser.MAX_TIMES,
            "description": "so many times over",
        },
        "of": {"$ref": "#/definitions/pattern", "description": "what has to happen so many times"},
        "seq": {"description": "all of them, one after the other"},
        "all": {"description": "all of them, in any order"},
        "any": {"description": "one of them"},
        "none": {"$ref": "#/definitions/cancelling", "description": "after the rest was matched, nothing of this"},
        "for": {"$ref": "#/definitions/duration", "description": "for how long"},
    },
    "step": {
        "id": {
            "type": "string",
            "pattern": f"^{step_graph.ID.pattern}$",
            "description": "its name: later steps read what it gave as steps.ID",
        },
        "wait": {"$ref": "#/definitions/duration", "description": "do nothing, for that long"},
        "wait_for": {"$ref": "#/definitions/leaf", "description": "wait for an event of the subject"},
        "if": {"$ref": "#/definitions/filter", "description": "CEL: which way to go"},
        "set": {
            "type": "object",
            "propertyNames": {"pattern": f"^{step_graph.ID.pattern}$"},
            "additionalProperties": {"anyOf": [{"$ref": "#/definitions/filter"}, {"type": ["number", "boolean"]}]},
            "minProperties": 1,
            "examples": [{"total": "mul(data.price, data.quantity)"}],
            "description": "CEL by name, in order: afterwards vars.NAME",
        },
        "par": {
            "type": "array",
            "items": {"$ref": "#/definitions/steps"},
            "minItems": step_graph.FEWEST_BLOCKS,
            "maxItems": step_graph.MOST_BLOCKS,
            "description": "blocks of steps that go on side by side",
        },
        "repeat": {
            "type": "array",
            "items": {"$ref": "#/definitions/step"},
            "minItems": 1,
            "description": "the steps of a round",
        },
        "until": {"$ref": "#/definitions/filter", "description": "CEL: no further round once it is true"},
        "most": {
            "type": "integer",
            "minimum": 1,
            "maximum": step_graph.MOST_ROUNDS,
            "default": step_graph.DEFAULT_ROUNDS,
            "description": "how many rounds at most",
        },
        "then": {
            "$ref": "#/definitions/steps",
            "description": "the steps to take if it is true, has come, or has succeeded",
        },
        "else": {
            "$ref": "#/definitions/steps",
            "description": "the steps to take otherwise; after an action that failed for good, which then is no failure",
        },
        "timeout": {"$ref": "#/definitions/duration", "description": "how long to wait at most"},
        "strict": {**_STRICT, "description": "the same for this step only, or the opposite"},
        "retry": {
            "type": "object",
            "properties": {
                "attempts": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": retry_policy.MOST_ATTEMPTS,
                    "description": "how often it is tried altogether",
                },
                "first": {
                    "$ref": "#/definitions/duration",
                    "description": "the first pause; doubled with each attempt",
                },
                "max": {"$ref": "#/definitions/duration", "description": "the longest pause"},
            },
            "additionalProperties": False,
            "default": dict(retry_policy.DEFAULTS),
            "description": "how failed attempts are repeated",
        },
    },
}

# What a form of pattern, or a step, has to have beside its own name.
_NEEDS = {"times": ("of",), "none": ("for",), "wait_for": ("timeout",), "if": ("then",), "repeat": ("until",)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _object(kind: str, names: Iterable[str], *, required: Iterable[str], **further: Schema) -> Schema:
    """An object with these fields and no others; `further` says what those are of which _SAYS knows nothing."""
    known = {**_SAYS[kind], **further}
    return {
        "type": "object",
        "properties": {name: dict(known.get(name, {})) for name in names},
        "required": list(required),
        "additionalProperties": False,
    }


def _form(form: str, names: Iterable[str], **further: Schema) -> Schema:
    ordered = sorted(names, key=lambda name: (name != form, name))
    return _object("pattern", ordered, required=(form, *_NEEDS.get(form, ())), **further)


def _forms(*, outermost: bool = False) -> Iterable[Schema]:
    """All forms of a pattern but the leaf as a bare name; `none` stands only in the outermost seq."""
    for form, names in pattern_parser.FIELDS.items():
        if form == "none":
            continue
        if form not in ("seq", "all", "any"):
            yield _form(form, names)
            continue
        member = _ref("pattern")
        if outermost and form == "seq":
            member = {"anyOf": [member, _form("none", pattern_parser.FIELDS["none"])]}
        yield _form(form, names, **{form: {**_SAYS["pattern"][form], "type": "array", "items": member, "minItems": 1}})


def _cancelling() -> Schema:
    """A leaf, or any of several."""
    members = {"type": "array", "items": _ref("leaf"), "minItems": 1, "description": "one of them"}
    others = [
        _form(form, names, **({"any": members} if form == "any" else {}))
        for form, names in pattern_parser.CANCELLING_FIELDS.items()
    ]
    return {"anyOf": [_ref("event"), *others]}


def _step(verb: str) -> Schema:
    further = {verb: _action(verb)} if verb in ACTIONS else {}
    if "timeout" in step_graph.beside(verb) and verb in ACTIONS:
        longest = f"how long an attempt may take, at most {step_graph.LONGEST_TIMEOUT}"
        further["timeout"] = {**_ref("duration"), "default": step_graph.DEFAULT_TIMEOUT, "description": longest}
    return _object("step", (verb, *step_graph.beside(verb)), required=(verb, *_NEEDS.get(verb, ())), **further)


def _action(verb: str) -> Schema:
    """What the action says of its fields: all of it, or at least their names."""
    action = ACTIONS[verb]
    told: Mapping[str, Any] | None = getattr(action, "SCHEMA", None)
    if told is not None:
        return dict(told)
    names: Iterable[str] | None = getattr(action, "FIELDS", None)
    if names is None:
        return {}
    return {"type": "object", "properties": {name: {} for name in names}, "additionalProperties": False}
