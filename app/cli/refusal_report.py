"""Reports about a refused request and its replay, as lines of text with control characters from the outside escaped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from app.cli.formatting import counted, visible
from app.cli.program import paste
from app.core.errors import ProblemType
from app.core.ids import utc_text
from app.db.refusals import RefusalRow
from app.services.refusals import why_not_replayable

if TYPE_CHECKING:
    from app.ingest.refusals_replay import Replayed

# Items of a batch, and characters of a body that are shown.
_MAX_ITEMS, _MAX_BODY = 20, 20_000


def refusal_lines(refusal: RefusalRow, body: bytes | None, account: str) -> Iterator[str]:
    """A refusal with its body, which is unpacked if it can be; None: it is not kept."""
    yield _field("refusal", refusal.id)
    yield _field("account", f"{account}, key sb_{refusal.key_prefix}_…")
    yield _field("refused", utc_text(refusal.refused_at))
    yield _field("request", f"POST {refusal.route}, X-Request-Id {refusal.request_id}")
    if refusal.idempotency_key is not None:
        yield _field("key", refusal.idempotency_key)
    yield _field("response", f"{refusal.status} {refusal.type}")
    yield _field("reason", refusal.detail)
    for error in refusal.errors or ():
        yield _field("", f"{error.get('field')}: {error.get('message')}")
    yield from _item_lines(refusal)
    yield _field("replay", _replay(refusal))
    if refusal.not_kept:
        yield _field("after it", f"{refusal.not_kept:,} more refusals of the account, which were not kept")
    yield ""
    yield from _body_lines(refusal, body)


def _item_lines(refusal: RefusalRow) -> Iterator[str]:
    items = refusal.items or ()
    for item in items[:_MAX_ITEMS]:
        event = f", replayed as event {item['event_id']}" if item.get("event_id") else ""
        yield _field("", f"event {item['index']}: {item['detail']}{event}")
    if len(items) > _MAX_ITEMS:
        yield _field("", f"and {counted(len(items) - _MAX_ITEMS, 'event')} more (list --json has all)")


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
    try:
        text = msgspec.json.format(body, indent=2).decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = body.decode(errors="backslashreplace")
    yield from (visible(line) for line in text[:_MAX_BODY].split("\n"))
    if len(text) > _MAX_BODY:
        yield f"… ({paste('refusal', 'show', refusal.id, '--raw')} writes all of it)"


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


def _field(name: str, value: object) -> str:
    return f"{name:<11}{visible(value)}"
