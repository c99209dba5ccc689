"""A workflow as a drawing: its pattern and its steps as trees of boxes, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.console.jinja_filters import show_count, show_step
from app.workflows import step_graph
from app.workflows.matching.pattern_ast import ANY_NAME

# Characters of a text in a box, and boxes of a drawing.
_MAX_TEXT, MAX_BOXES = 120, 100
# What a step does, in front of its most important field.
_VERBS: Mapping[str, tuple[str, str]] = {
    "http": ("call", "url"),
    "whatsapp": ("send the WhatsApp template", "template"),
    "sms": ("send the SMS", "text"),
    "call": ("call by phone and say", "say"),
    "email": ("send the email", "subject"),
    "sendgrid": ("send the email", "subject"),
    "message": ("send to the account's applications", "text"),
}


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a drawing: what it does, its most important `detail` (such as a filter), and the parts in it. `path`: of a step,
    in the document. `ordered`: the parts come one after the other."""

    text: str
    detail: str = ""
    parts: Sequence[Box] = ()
    path: str = ""
    ordered: bool = True


def count_boxes(boxes: Sequence[Box]) -> int:
    """How many boxes there are, with those in them."""
    return sum(1 + count_boxes(box.parts) for box in boxes)


def draw_pattern(on: Any) -> Box:
    """The pattern of a valid document."""
    if isinstance(on, str):
        return Box(_event(on))
    detail = _limits(on)
    if "event" in on:
        where = f"where {on['where']}" if "where" in on else ""
        return Box(_event(on["event"]), "; ".join(filter(None, (where, detail))))
    if "times" in on:
        return Box(f"{on['times']} times, one after the other", detail, [draw_pattern(on["of"])])
    if "none" in on:
        return Box(f"then, for {on['for']}, none of", "", [draw_pattern(on["none"])])
    for name, text in (("seq", "in this order"), ("all", "all of these, in any order"), ("any", "one of these")):
        if name in on:
            return Box(text, detail, [draw_pattern(member) for member in on[name]], ordered=name == "seq")
    return Box("", detail)


def _event(name: str) -> str:
    return "any event" if name == "*" else name


def _limits(on: Mapping[str, Any]) -> str:
    within = f"within {on['within']}" if "within" in on else ""
    unless = f"unless {_short(_words(on['unless']))} comes between" if "unless" in on else ""
    return ", ".join(filter(None, (within, unless)))


def _words(on: Any) -> str:
    """A pattern in one line."""
    box = draw_pattern(on)
    inner = "; ".join(_words_of_box(part) for part in box.parts)
    return " ".join(filter(None, (box.text, box.detail, f"({inner})" if inner else "")))


def _words_of_box(box: Box) -> str:
    return " ".join(filter(None, (box.text, box.detail, *(_words_of_box(part) for part in box.parts))))


def draw_steps(steps: Any, path: str = "steps") -> list[Box]:
    """The steps of a valid document, or of a block of one."""
    return [_draw_step(step, f"{path}[{index}]") for index, step in enumerate(steps or ())]


def _draw_step(step: Mapping[str, Any], path: str) -> Box:
    verb = step_graph.find_verb(step)
    text, detail = _describe(verb, step)
    if "id" in step:
        detail = f"{detail} (id {step['id']})".strip()
    if verb == step_graph.REPEAT:
        return Box(text, _short(detail), draw_steps(step[verb], f"{path}.{verb}"), path)
    blocks = [_draw_block(name, block, f"{path}.{name}") for name, block in step_graph.blocks_in(step)]
    return Box(text, _short(detail), blocks, path, ordered=False)


def _draw_block(name: str, block: Any, path: str) -> Box:
    if name.startswith(step_graph.PAR):
        return Box(show_step(name), "", draw_steps(block, path))
    return Box(name, "" if block else "goes on", draw_steps(block, path))


def _describe(verb: str, step: Mapping[str, Any]) -> tuple[str, str]:
    """What a step does, and its detail."""
    value = step[verb]
    if verb == step_graph.WAIT:
        return f"wait {value}", ""
    if verb == step_graph.WAIT_FOR:
        timeout = f" for at most {step['timeout']}" if "timeout" in step else ""
        return f"wait{timeout} until", _words(value)
    if verb == step_graph.SET:
        return "set", ", ".join(name for name, _ in step_graph.list_assignments(step))
    if verb == step_graph.PAR:
        return f"{show_count(len(value), 'block')} in parallel", ""
    if verb == step_graph.REPEAT:
        rounds = step.get("most", step_graph.DEFAULT_ROUNDS)
        return f"repeat at most {show_count(rounds, 'time')}", f"until {step['until']}" if "until" in step else ""
    if verb not in _VERBS:
        return verb, _text(value)
    words, field = _VERBS[verb]
    return words, _text(value.get(field, value.get("url", "")))


def _text(value: Any) -> str:
    return str(value.get("mustache", "")) if isinstance(value, Mapping) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def first_event(on: Any) -> str:
    """The name of an event with which a pattern may begin; "" if there is none."""
    if isinstance(on, str):
        return "" if on == ANY_NAME else on
    if isinstance(on, list):
        return next((found for member in on if (found := first_event(member))), "")
    if isinstance(on, dict):
        return next(
            (found for name in ("event", "of", "seq", "all", "any") if (found := first_event(on.get(name)))), ""
        )
    return ""
