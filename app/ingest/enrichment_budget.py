"""What the augments of one event may take together: time, bytes, and lines of explanation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.core.exact_json import ExactObject

if TYPE_CHECKING:
    from app.ingest.enrichment_api import ApiError, ApiQuery

# Seconds for all APIs, and for all files that are looked up in Postgres.
API_SECONDS = 0.5
FILE_SECONDS = 0.5
# Bytes of JSON that augments add to one event, and of all answers of APIs, which may contain fields that are not added.
MAX_ADDED_BYTES = 64 * 1024
MAX_ANSWERED_BYTES = 256 * 1024
# Augments that the warnings of an event name one by one.
MAX_NAMED = 10


@dataclass(slots=True)
class ApiBudget:
    """What APIs may still take for one event. The event is built again after its account has changed: it keeps the budget and
    the answers, so that no API is called twice for it."""

    bytes_left: int = MAX_ANSWERED_BYTES
    answers: dict[ApiQuery, ExactObject | ApiError] = field(default_factory=dict)
    _deadline: float | None = None

    def deadline(self) -> float:
        """When APIs are no longer waited for, in monotonic seconds. The time begins with the first call."""
        if self._deadline is None:
            self._deadline = time.monotonic() + API_SECONDS
        return self._deadline
