"""The matching rules of `workflow-language.md`, implemented by trying every choice of events.

Shares no code with `app.workflows.matching`. A timeline is a list of (name, second, data); a choice is the tuple of the
indexes of the events that it uses, in order. A leaf test is a function (leaf document, event) -> bool.

How rule 6 is read: a choice is a partial match if it becomes a match by events that all come after the present one, at
the same second at the earliest, where each matches its leaf and cancels nothing. So a node that has begun and is not
complete has its first event before and its last event ahead: its window has to be open now, and no event after its
first, the present one included, may match its `unless`. Whether such events can exist is not considered: filters are
never reasoned about.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

Event = tuple[str, int, dict[str, Any]]
Choice = tuple[int, ...]
LeafMatches = Callable[[Any, Event], bool]

SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}


class Verdict(NamedTuple):
    """What the rules require: all valid matches by the index of the event, or by the second of the deadline, that
    completes them.

    `deadlines`: the first armed deadline after each event. A deadline after the last event is not waited for.
    """

    matches: dict[int, set[Choice]]
    deadline_matches: dict[int, set[Choice]]
    contributing: list[bool]
    deadlines: list[int | None]


def judge(document: Any, timeline: list[Event], leaf_matches: LeafMatches) -> Verdict:
    rest, trailing_none = split(document)
    verdict = Verdict({}, {}, [], [])
    since = 0
    armed: list[tuple[int, int]] = []  # second, and index of the event that completed the rest
    for now, event in enumerate(timeline):
        reached = min((second for second, _ in armed if second < event[1]), default=None)
        if reached is not None:
            verdict.deadline_matches[reached] = matches_of_first_deadline(rest, timeline, since, armed, leaf_matches)
            since, armed = now, []
        seen = timeline[since : now + 1]
        last = len(seen) - 1
        matches = {choice for choice in complete(rest, seen, leaf_matches) if choice[-1] == last}
        partial = {choice for choice in unfinished(rest, seen, leaf_matches) if choice[-1] == last}
        verdict.contributing.append(bool(matches or partial))
        if trailing_none is not None:
            if any_leaf_matches(trailing_none["none"], event, leaf_matches):
                armed = []
            if matches:
                armed.append((event[1] + seconds(trailing_none["for"]), now))
        elif matches:
            verdict.matches[now] = {tuple(since + index for index in choice) for choice in matches}
            since = now + 1
        verdict.deadlines.append(min((second for second, _ in armed), default=None))
    return verdict


def matches_of_first_deadline(
    rest: Any, timeline: list[Event], since: int, armed: list[tuple[int, int]], leaf_matches: LeafMatches
) -> set[Choice]:
    """The matches that end in an event that armed the first deadline."""
    first = min(second for second, _ in armed)
    ends = {index for second, index in armed if second == first}
    choices = complete(rest, timeline[since : max(ends) + 1], leaf_matches)
    return {tuple(since + index for index in choice) for choice in choices if since + choice[-1] in ends}


def split(document: Any) -> tuple[Any, Any]:
    """The document without its trailing `none`, and that `none`."""
    if isinstance(document, dict) and "seq" in document:
        last = document["seq"][-1]
        if isinstance(last, dict) and "none" in last:
            return {**document, "seq": document["seq"][:-1]}, last
    return document, None


def complete(document: Any, seen: list[Event], leaf_matches: LeafMatches) -> set[Choice]:
    """Every choice that matches the whole document."""
    choices = complete_form(document, seen, leaf_matches)
    return {choice for choice in choices if conditions_hold(document, seen, choice, None, leaf_matches)}


def complete_form(document: Any, seen: list[Event], leaf_matches: LeafMatches) -> set[Choice]:
    if is_leaf(document):
        return {(index,) for index, event in enumerate(seen) if leaf_matches(document, event)}
    if "any" in document:
        return {choice for member in document["any"] for choice in complete(member, seen, leaf_matches)}
    if "all" in document:
        choices: set[Choice] = {()}
        for member in document["all"]:
            ends = complete(member, seen, leaf_matches)
            choices = {tuple(sorted(a + b)) for a in choices for b in ends if not set(a) & set(b)}
        return choices
    choices = {()}
    for member in members_in_order(document):
        choices = {a + b for a in choices for b in complete(member, seen, leaf_matches) if follows(a, b)}
    return choices


def unfinished(document: Any, seen: list[Event], leaf_matches: LeafMatches) -> set[Choice]:
    """Every choice that begins the document and leaves something of it to events after `seen`."""
    now = len(seen) - 1
    choices = unfinished_form(document, seen, leaf_matches)
    return {choice for choice in choices if conditions_hold(document, seen, choice, now, leaf_matches)}


def unfinished_form(document: Any, seen: list[Event], leaf_matches: LeafMatches) -> set[Choice]:
    if is_leaf(document):
        return set()
    if "any" in document:
        return {choice for member in document["any"] for choice in unfinished(member, seen, leaf_matches)}
    if "all" in document:
        return unfinished_all(document["all"], seen, leaf_matches)
    found: set[Choice] = set()
    before: set[Choice] = {()}
    for member in members_in_order(document):
        found |= before  # no event of this member yet
        found |= {a + b for a in before for b in unfinished(member, seen, leaf_matches) if follows(a, b)}
        before = {a + b for a in before for b in complete(member, seen, leaf_matches) if follows(a, b)}
    return found - {()}


def unfinished_all(members: list[Any], seen: list[Event], leaf_matches: LeafMatches) -> set[Choice]:
    choices: set[tuple[Choice, bool]] = {((), True)}
    for member in members:
        states: set[tuple[Choice, bool]] = {((), False)}
        states |= {(choice, True) for choice in complete(member, seen, leaf_matches)}
        states |= {(choice, False) for choice in unfinished(member, seen, leaf_matches)}
        choices = {
            (tuple(sorted(a + b)), whole and done) for a, whole in choices for b, done in states if not set(a) & set(b)
        }
    return {choice for choice, whole in choices if choice and not whole}


def conditions_hold(
    document: Any, seen: list[Event], choice: Choice, now: int | None, leaf_matches: LeafMatches
) -> bool:
    """Window and `unless`. `now` is the index of the present event if the last one is still ahead, else None."""
    if is_leaf(document):
        return True
    end = choice[-1] if now is None else now
    if "within" in document and seen[end][1] - seen[choice[0]][1] > seconds(document["within"]):
        return False
    between = seen[choice[0] + 1 : end] if now is None else seen[choice[0] + 1 : now + 1]
    return "unless" not in document or not any(
        any_leaf_matches(document["unless"], event, leaf_matches) for event in between
    )


def follows(before: Choice, after: Choice) -> bool:
    return not before or before[-1] < after[0]


def members_in_order(document: Any) -> list[Any]:
    return document["seq"] if "seq" in document else [document["of"]] * document["times"]


def is_leaf(document: Any) -> bool:
    return isinstance(document, str) or "event" in document


def any_leaf_matches(document: Any, event: Event, leaf_matches: LeafMatches) -> bool:
    leaves = [document] if is_leaf(document) else document["any"]
    return any(leaf_matches(leaf, event) for leaf in leaves)


def seconds(duration: str) -> int:
    return sum(int(count) * SECONDS[unit] for count, unit in re.findall(r"(\d+)([wdhms])", duration))
