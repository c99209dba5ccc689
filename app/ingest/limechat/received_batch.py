"""The items of a batch, which can be read as events any number of times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.core.models import Event
from app.ingest.limechat.batch_items import read_item, split_array, split_lines

LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class ReceivedBatch:
    """The items of a request's body; `item` gives the text of one by its number. `indexes`: their positions in the batch that was
    sent, where it had others between them."""

    account_id: int
    count: int
    item: Callable[[int], bytes]
    idempotency_key: str | None
    max_bytes: int
    is_webhook_id: bool = False
    stores_unusable_phone: Callable[[], bool] = lambda: False
    indexes: Sequence[int] | None = None

    def __len__(self) -> int:
        return self.count

    def read(self, number: int, event_id: UUID, received_at: datetime) -> Event:
        """An item as an event; raises Problem."""
        index = number if self.indexes is None else self.indexes[number]
        return read_item(
            self.item(number),
            account_id=self.account_id,
            event_id=event_id,
            received_at=received_at,
            idempotency_key=None if self.idempotency_key is None else f"{self.idempotency_key}#{index}",
            is_webhook_id=self.is_webhook_id,
            max_bytes=self.max_bytes,
            stores_unusable_phone=self.stores_unusable_phone,
        )


def split_body(body: bytes, max_items: int, max_bytes: int, *, lines: bool) -> tuple[int, Callable[[int], bytes]]:
    """The number of items in a body, and a function that gives the text of one by its number. Raises Problem.
    Of an array, items of more than `max_bytes` are not parsed."""
    if lines:
        spans = split_lines(body, max_items)
        return len(spans), lambda number: body[slice(*spans[number])].rstrip()
    parts = split_array(body, max_items, max_bytes)
    return len(parts), lambda number: bytes(parts[number])
