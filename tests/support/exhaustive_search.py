"""The rules of `workflow-language.md`, once more and naive on purpose: try every choice of events.

Shares nothing with `app.workflows.matching`. A timeline is a list of (name, second, data); a choice is the tuple of the places
that it uses, in order. A leaf test is given as a function (leaf document, event) -> bool.

The reading of rule 6, in one sentence: a partial match is a choice of events that would be a match if the places still
open were filled by events that come after all of these, at this very second at the earliest, each of them fitting its
place and cancelling nothing. So a node that is begun and not finished has its first event behind it and its last event
ahead: the window has to be open now, and no event after its first, up to and including this one, may match its
`unless`. Whether such events can exist is not asked: filters are never reasoned about.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

Happened = tuple[str, int, dict[str, Any]]
Choice = tuple[int, ...]
Fits = Callable[[Any, Happened], bool]

SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}


class Verdict(NamedTuple):
    """What the rules say: `fires` maps a place in the timeline to its matches, `clock_fires` a second likewise.

    `deadlines`: the first armed deadline after each event. A deadline after the last event is not waited for.
    """

    fires: dict[int, set[Choice]]
    clock_fires: dict[int, set[Choice]]
    contributing: list[bool]
    deadlines: list[int | None]


def judge(document: Any, timeline: list[Happened], fits: Fits) -> Verdict:
    rest, quiet = split(document)
    verdict = Verdict({}, {}, [], [])
    since = 0
    armed: list[tuple[int, int]] = []  # second, and place of the event that completed the rest
    for now, event in enumerate(timeline):
        reached = min((second for second, _ in armed if second < event[1]), default=None)
        if reached is not None:
            verdict.clock_fires[reached] = matches_at_first(rest, timeline, since, armed, fits)
            since, armed = now, []
        seen = timeline[since : now + 1]
        last = len(seen) - 1
        whole = {choice for choice in complete(rest, seen, fits) if choice[-1] == last}
        open_ = {choice for choice in unfinished(rest, seen, fits) if choice[-1] == last}
        verdict.contributing.append(bool(whole or open_))
        if quiet is not None:
            if any_fits(quiet["none"], event, fits):
                armed = []
            if whole:
                armed.append((event[1] + seconds(quiet["for"]), now))
        elif whole:
            verdict.fires[now] = {tuple(since + place for place in choice) for choice in whole}
            since = now + 1
        verdict.deadlines.append(min((second for second, _ in armed), default=None))
    return verdict


def matches_at_first(
    rest: Any, timeline: list[Happened], since: int, armed: list[tuple[int, int]], fits: Fits
) -> set[Choice]:
    """The matches that end in an event whose deadline is the first."""
    first = min(second for second, _ in armed)
    ends = {place for second, place in armed if second == first}
    choices = complete(rest, timeline[since : max(ends) + 1], fits)
    return {tuple(since + place for place in choice) for choice in choices if since + choice[-1] in ends}


def split(document: Any) -> tuple[Any, Any]:
    if isinstance(document, dict) and "seq" in document:
        last = document["seq"][-1]
        if isinstance(last, dict) and "none" in last:
            return {**document, "seq": document["seq"][:-1]}, last
    return document, None


def complete(document: Any, seen: list[Happened], fits: Fits) -> set[Choice]:
    """Every choice that matches the whole of `document`."""
    return {choice for choice in complete_form(document, seen, fits) if holds(document, seen, choice, None, fits)}


def complete_form(document: Any, seen: list[Happened], fits: Fits) -> set[Choice]:
    if is_leaf(document):
        return {(place,) for place, event in enumerate(seen) if fits(document, event)}
    if "any" in document:
        return {choice for member in document["any"] for choice in complete(member, seen, fits)}
    if "all" in document:
        choices: set[Choice] = {()}
        for member in document["all"]:
            choices = {
                tuple(sorted(a + b)) for a in choices for b in complete(member, seen, fits) if not set(a) & set(b)
            }
        return choices
    choices = {()}
    for member in members_in_order(document):
        choices = {a + b for a in choices for b in complete(member, seen, fits) if follows(a, b)}
    return choices


def unfinished(document: Any, seen: list[Happened], fits: Fits) -> set[Choice]:
    """Every choice that begins `document` and leaves something of it to events after `seen`."""
    now = len(seen) - 1
    return {choice for choice in unfinished_form(document, seen, fits) if holds(document, seen, choice, now, fits)}


def unfinished_form(document: Any, seen: list[Happened], fits: Fits) -> set[Choice]:
    if is_leaf(document):
        return set()
    if "any" in document:
        return {choice for member in document["any"] for choice in unfinished(member, seen, fits)}
    if "all" in document:
        return unfinished_all(document["all"], seen, fits)
    found: set[Choice] = set()
    before: set[Choice] = {()}
    for member in members_in_order(document):
        found |= before  # nothing of this member yet
        found |= {a + b for a in before for b in unfinished(member, seen, fits) if follows(a, b)}
        before = {a + b for a in before for b in complete(member, seen, fits) if follows(a, b)}
    return found - {()}


def unfinished_all(members: list[Any], seen: list[Happened], fits: Fits) -> set[Choice]:
    choices: set[tuple[Choice, bool]] = {((), True)}
    for member in members:
        states: set[tuple[Choice, bool]] = {((), False)}
        states |= {(choice, True) for choice in complete(member, seen, fits)}
        states |= {(choice, False) for choice in unfinished(member, seen, fits)}
        choices = {
            (tuple(sorted(a + b)), whole and done) for a, whole in choices for b, done in states if not set(a) & set(b)
        }
    return {choice for choice, whole in choices if choice and not whole}


def holds(document: Any, seen: list[Happened], choice: Choice, now: int | None, fits: Fits) -> bool:
    """Window and `unless`. `now` is the place of the present event when the last one is still ahead, else None."""
    if is_leaf(document):
        return True
    end = choice[-1] if now is None else now
    if "within" in document and seen[end][1] - seen[choice[0]][1] > seconds(document["within"]):
        return False
    between = seen[choice[0] + 1 : end] if now is None else seen[choice[0] + 1 : now + 1]
    return "unless" not in document or not any(any_fits(document["unless"], event, fits) for event in between)


def follows(before: Choice, after: Choice) -> bool:
    return not before or before[-1] < after[0]


def members_in_order(document: Any) -> list[Any]:
    return document["seq"] if "seq" in document else [document["of"]] * document["times"]


def is_leaf(document: Any) -> bool:
    return isinstance(document, str) or "event" in document


def any_fits(document: Any, event: Happened, fits: Fits) -> bool:
    leaves = [document] if is_leaf(document) else document["any"]
    return any(fits(leaf, event) for leaf in leaves)


def seconds(duration: str) -> int:
    return sum(int(count) * SECONDS[unit] for count, unit in re.findall(r"(\d+)([wdhms])", duration))
