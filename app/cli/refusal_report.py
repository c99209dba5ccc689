"""Reports about a refused request and its replay, as lines of text with control characters from the outside escaped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

from app.cli.program import paste
from app.cli.terminal_text import body_lines, counted, field_line, visible
from app.core.api_keys import shown_prefix
from app.core.errors import ProblemType
from app.core.ids import utc_text
from app.db.refusals import RefusalRow
from app.services.refusals import why_not_replayable

if TYPE_CHECKING:
    from app.ingest.refusals_replay import Replayed

# Items of a batch that are shown.
_MAX_ITEMS = 20


def refusal_lines(refusal: RefusalRow, body: bytes | None, account: str) -> Iterator[str]:
    """A refusal with its body, which is unpacked if it can be; None: it is not kept."""
    yield field_line("refusal", refusal.id)
    yield field_line("account", f"{account}, key {shown_prefix(refusal.key_prefix)}_…")
    yield field_line("refused", utc_text(refusal.refused_at))
    yield field_line("request", f"POST {refusal.route}, X-Request-Id {refusal.request_id}")
    if refusal.idempotency_key is not None:
        yield field_line("key", refusal.idempotency_key)
    yield field_line("response", f"{refusal.status} {refusal.type}")
    yield field_line("reason", refusal.detail)
    for error in refusal.errors or ():
        yield field_line("", f"{error.get('field')}: {error.get('message')}")
    yield from _item_lines(refusal)
    yield field_line("replay", _replay(refusal))
    if refusal.not_kept:
        yield field_line("after it", f"{refusal.not_kept:,} more refusals of the account, which were not kept")
    yield ""
    yield from _body_lines(refusal, body)


def _item_lines(refusal: RefusalRow) -> Iterator[str]:
    items = refusal.items or ()
    for item in items[:_MAX_ITEMS]:
        event = f", replayed as event {item['event_id']}" if item.get("event_id") else ""
        yield field_line("", f"event {item['index']}: {item['detail']}{event}")
    if len(items) > _MAX_ITEMS:
        yield field_line("", f"and {counted(len(items) - _MAX_ITEMS, 'event')} more (list --json has all)")


def _replay(refusal: RefusalRow) -> str:
    if refusal.replayed_at is not None:
        event = f" as event {refusal.replayed_event_id}" if refusal.replayed_event_id else ""
        return f"replayed at {utc_text(refusal.replayed_at)}{event}"
    reason = why_not_replayable(refusal)
    return f"not possible: {reason}" if reason else f"possible: {paste('refusal', 'replay', refusal.id)}"


def _body_lines(refusal: RefusalRow, body: bytes | None) -> Iterator[str]:
    if body is None:
        yield "body: not kept"
        return
    kind = ", ".join(filter(None, (refusal.content_type, refusal.content_encoding)))
    yield visible(f"body, {counted(refusal.body_bytes, 'byte')} ({kind or 'no Content-Type'}):")
    yield from body_lines(body, paste("refusal", "show", refusal.id, "--raw"))


def replayed_lines(refusal_id: UUID, replayed: Replayed) -> Iterator[str]:
    """What became of a refusal."""
    for index, problem in sorted((replayed.refused or {}).items(), key=lambda one: -1 if one[0] is None else one[0]):
        item = "" if index is None else f"event {index} "
        again = f"{item}refused again: {problem.status} {problem.type.slug}: {problem.detail}"
        yield visible(f"refusal {refusal_id}: {problem.detail if problem.type is ProblemType.CONFLICT else again}")
    if not replayed.events:
        return
    first = f"first event {replayed.events[0]}" if len(replayed.events) > 1 else f"event {replayed.events[0]}"
    if replayed.stored:
        yield f"refusal {refusal_id}: {counted(replayed.stored, 'event')} stored, {first}"
    else:
        yield f"refusal {refusal_id}: was stored before, {first}"
