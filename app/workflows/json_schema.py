"""The JSON Schema (draft 07) of a workflow document, for editors that complete and validate while typing.

It is built from the constants that the validation uses, so that a new field, step, action or form of pattern is in the
schema too; `_FIELDS` describes it. A schema cannot validate CEL, Liquid and references to ids: `signalbox workflow check`
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.actions import ACTIONS, retry_policy
from app.core.durations import SHAPE
from app.workflows import step_graph, validate
from app.workflows.matching import pattern_parser, rule

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
                    "mustache": {"type": "string", "description": "a Mustache template instead of a Liquid one"}
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


def _ref(name: str, description: str | None = None) -> Schema:
    return {"$ref": f"#/definitions/{name}", **({} if description is None else {"description": description})}


def _count(maximum: int, description: str) -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": maximum, "description": description}


def _steps(description: str) -> Schema:
    return {"type": "array", "items": _ref("step"), "minItems": 1, "description": description}


_STRICT: Schema = {"type": "boolean", "default": False}

# The schema of each field by what has it. A field that is not listed may have any value.
_FIELDS: Mapping[str, Mapping[str, Schema]] = {
    "workflow": {
        "name": {"type": "string", "pattern": f"^{validate.NAME.pattern}$", "description": "unique in the account"},
        "description": {"type": "string", "description": "the purpose of the workflow"},
        "on": _ref("start", "the pattern that starts a run, in the simplest case the name of an event"),
        "key": {
            "type": "string",
            "pattern": f"^({validate.KEY.pattern})$",
            "default": rule.DISTINCT_ID,
            "description": "the field whose value is the subject of an event",
        },
        "again": {
            "anyOf": [{"enum": [rule.ALWAYS, rule.ONCE]}, _ref("duration")],
            "default": rule.ALWAYS,
            "description": "how soon it may start again for the same subject",
        },
        "exit_on": _ref("leaf", "the event that ends a run at any step"),
        "strict": {**_STRICT, "description": "a missing value in a template, condition or variable fails the run"},
        "steps": _steps("the steps of a run, one after the other"),
    },
    "pattern": {
        "event": _ref("event", "one event with this name; * is any name"),
        "where": _ref("filter", "CEL: only events for which it is true"),
        "within": _ref("duration", "its last event at most this long after its first"),
        "unless": _ref("cancelling", "no such event between its first and its last"),
        "times": _count(pattern_parser.MAX_TIMES, "how many times"),
        "of": _ref("pattern", "the pattern to repeat"),
        "seq": {"description": "all members, one after the other"},
        "all": {"description": "all members, in any order"},
        "any": {"description": "one of the members"},
        "none": _ref("cancelling", "no such event after the rest has matched"),
        "for": _ref("duration", "the duration without such an event"),
    },
    "step": {
        "id": {
            "type": "string",
            "pattern": f"^{step_graph.ID.pattern}$",
            "description": "later steps read the output of this step as steps.ID",
        },
        "wait": _ref("duration", "wait for this duration"),
        "wait_for": _ref("leaf", "wait for an event of the subject"),
        "if": _ref("filter", "CEL: the condition"),
        "set": {
            "type": "object",
            "propertyNames": {"pattern": f"^{step_graph.ID.pattern}$"},
            "additionalProperties": {"anyOf": [_ref("filter"), {"type": ["number", "boolean"]}]},
            "minProperties": 1,
            "examples": [{"total": "mul(data.price, data.quantity)"}],
            "description": "CEL by name, in order; later steps read vars.NAME",
        },
        "par": {
            "type": "array",
            "items": _ref("steps"),
            "minItems": step_graph.MIN_BLOCKS,
            "maxItems": step_graph.MAX_BLOCKS,
            "description": "blocks of steps that run in parallel",
        },
        "repeat": _steps("the steps of a round"),
        "until": _ref("filter", "CEL: rounds end when it is true"),
        "most": {
            **_count(step_graph.MAX_ROUNDS, "the maximum number of rounds"),
            "default": step_graph.DEFAULT_ROUNDS,
        },
        "then": _ref(
            "steps", "the steps to run if the condition is true, the event has arrived, or the action has succeeded"
        ),
        "else": _ref("steps", "the steps to run otherwise; after a failed action, the run then does not fail"),
        "timeout": _ref("duration", "the maximum time to wait"),
        "strict": {**_STRICT, "description": "overrides strict of the workflow for this step"},
        "retry": {
            "type": "object",
            "properties": {
                "attempts": _count(retry_policy.MAX_ATTEMPTS, "the maximum number of attempts"),
                "first": _ref("duration", "the first pause; doubled with each attempt"),
                "max": _ref("duration", "the maximum pause"),
            },
            "additionalProperties": False,
            "default": dict(retry_policy.DEFAULTS),
            "description": "how failed attempts are repeated",
        },
    },
}

# The further fields that a form of pattern or a step requires.
_REQUIRED = {"times": ("of",), "none": ("for",), "wait_for": ("timeout",), "if": ("then",), "repeat": ("until",)}


def _object(kind: str, names: Iterable[str], *, required: Iterable[str], **further: Schema) -> Schema:
    """An object with these fields and no others. `further` has the schemas that are not in _FIELDS."""
    schemas = {**_FIELDS[kind], **further}
    return {
        "type": "object",
        "properties": {name: dict(schemas.get(name, {})) for name in names},
        "required": list(required),
        "additionalProperties": False,
    }


def _form(form: str, names: Iterable[str], **further: Schema) -> Schema:
    ordered = sorted(names, key=lambda name: (name != form, name))
    return _object("pattern", ordered, required=(form, *_REQUIRED.get(form, ())), **further)


def _forms(*, outermost: bool = False) -> Iterable[Schema]:
    """All forms of a pattern except a bare event name. `none` is allowed only in the outermost `seq`."""
    for form, names in pattern_parser.FIELDS.items():
        if form == "none":
            continue
        if form not in ("seq", "all", "any"):
            yield _form(form, names)
            continue
        member = _ref("pattern")
        if outermost and form == "seq":
            member = {"anyOf": [member, _form("none", pattern_parser.FIELDS["none"])]}
        yield _form(
            form, names, **{form: {**_FIELDS["pattern"][form], "type": "array", "items": member, "minItems": 1}}
        )


def _cancelling() -> Schema:
    """A leaf, or an `any` of leaves."""
    members = {"type": "array", "items": _ref("leaf"), "minItems": 1, "description": "one of the members"}
    others = [
        _form(form, names, **({"any": members} if form == "any" else {}))
        for form, names in pattern_parser.CANCELLING_FIELDS.items()
    ]
    return {"anyOf": [_ref("event"), *others]}


def _step(verb: str) -> Schema:
    further = {verb: _action(verb)} if verb in ACTIONS else {}
    if "timeout" in step_graph.allowed_fields(verb) and verb in ACTIONS:
        timeout = f"the maximum duration of an attempt, up to {step_graph.MAX_TIMEOUT}"
        further["timeout"] = {**_ref("duration", timeout), "default": step_graph.DEFAULT_TIMEOUT}
    return _object(
        "step", (verb, *step_graph.allowed_fields(verb)), required=(verb, *_REQUIRED.get(verb, ())), **further
    )


def _action(verb: str) -> Schema:
    """The schema of the action's fields. An action without a SCHEMA has their names only."""
    action = ACTIONS[verb]
    schema: Mapping[str, Any] | None = getattr(action, "SCHEMA", None)
    if schema is not None:
        return dict(schema)
    names: Iterable[str] | None = getattr(action, "FIELDS", None)
    if names is None:
        return {}
    return {"type": "object", "properties": {name: {} for name in names}, "additionalProperties": False}
