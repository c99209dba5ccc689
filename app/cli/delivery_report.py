"""Reports about a delivery, as lines of text with control characters escaped."""

from __future__ import annotations

from collections.abc import Iterator

from app.cli.program import paste
from app.cli.terminal_text import body_lines, counted, field_line, visible
from app.core.ids import utc_text
from app.db.deliveries import UNVERIFIED, WAITING, DeliveryRow

# Events and problems that are shown.
_MAX_EVENTS, _MAX_PROBLEMS = 20, 20


def summary(delivery: DeliveryRow) -> str:
    """What became of a delivery, in a few words: the first problem, or its events."""
    if delivery.problems:
        first = delivery.problems[0]
        item = "" if first["item"] is None else f"item {first['item']}: "
        more = f" (and {len(delivery.problems) - 1} more)" if len(delivery.problems) > 1 else ""
        return f"{item}{first['path']}: {first['message']}{more}"
    duplicates = f", {delivery.duplicates:,} stored before" if delivery.duplicates else ""
    return f"{counted(len(delivery.events), 'event')}{duplicates}"


def delivery_lines(delivery: DeliveryRow, body: bytes, account: str) -> Iterator[str]:
    """A delivery with its body, which is unpacked if it can be."""
    yield field_line("delivery", delivery.id)
    yield field_line("account", account)
    yield field_line("source", f"{delivery.source or '(deleted)'}, version {delivery.source_version}")
    yield field_line("received", utc_text(delivery.received_at))
    query = f"?{delivery.query}" if delivery.query else ""
    yield field_line("request", f"{delivery.method} /hooks/***{query}, X-Request-Id {delivery.request_id}")
    yield field_line("verified", "yes" if delivery.verified else "no")
    duplicates = f", {delivery.duplicates:,} of them stored before" if delivery.duplicates else ""
    yield field_line("result", f"{delivery.result}, {counted(len(delivery.events), 'event')}{duplicates}")
    yield from _problem_lines(delivery)
    yield from (field_line("event", event) for event in delivery.events[:_MAX_EVENTS])
    if len(delivery.events) > _MAX_EVENTS:
        yield field_line("", f"and {counted(len(delivery.events) - _MAX_EVENTS, 'event')} more (--json has all)")
    if delivery.replayed_at is not None:
        yield field_line("replayed", utc_text(delivery.replayed_at))
    yield from _next_lines(delivery)
    yield ""
    yield from (visible(f"{name}: {value}") for name, value in delivery.headers.items())
    yield ""
    yield from _body_lines(delivery, body)


def _problem_lines(delivery: DeliveryRow) -> Iterator[str]:
    problems = delivery.problems or ()
    for problem in problems[:_MAX_PROBLEMS]:
        item = "" if problem["item"] is None else f"item {problem['item']}: "
        yield field_line("problem", f"{item}{problem['path']}: {problem['message']}")
    if len(problems) > _MAX_PROBLEMS:
        yield field_line("", f"and {counted(len(problems) - _MAX_PROBLEMS, 'problem')} more (--json has all)")


def _next_lines(delivery: DeliveryRow) -> Iterator[str]:
    """What can be done about a delivery that is not mapped."""
    if delivery.source is None or delivery.result not in (*WAITING, UNVERIFIED):
        return
    yield f"try        {paste('source', 'try', delivery.source, '--delivery', delivery.id)}"
    if delivery.result in WAITING:
        yield f"map again  {paste('source', 'replay', delivery.source, '--delivery', delivery.id)}"


def _body_lines(delivery: DeliveryRow, body: bytes) -> Iterator[str]:
    yield visible(f"body, {counted(delivery.body_bytes, 'byte')} ({delivery.content_encoding or 'not compressed'}):")
    yield from body_lines(body, paste("delivery", "show", delivery.id, "--original"))
