"""Finds new events as they arrive: each once, without missing one.

An event gets its id when it arrives and becomes visible when its transaction commits, so a later event may become visible
first. Each poll therefore reaches back for as long as a commit may take, and skips the events found before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from uuid import UUID

from app.core.ids import timestamp_of
from app.db.inspection import StoredEvent

# The events since a time, without the known ones, oldest first, at most the given number.
FindEvents = Callable[[datetime, Collection[UUID], int], list[StoredEvent]]

MAX_EVENTS = 1_000


class EventTail:
    """Polls for new events. `look_back` is the longest time between an event's arrival and its commit."""

    def __init__(self, find: FindEvents, clock: Callable[[], datetime], look_back: timedelta) -> None:
        self._find = find
        self._clock = clock
        self._look_back = look_back
        self._known: set[UUID] = set()
        self._since = clock() - look_back
        # Skip the events that are visible already.
        for _ in self.poll():
            pass

    def poll(self) -> Iterator[StoredEvent]:
        """The events that have become visible since the last poll. The next poll finds what an aborted one missed."""
        started_at = self._clock()
        while found := self._find(self._since, self._known, MAX_EVENTS):
            for event in found:
                self._known.add(event.id)
                yield event
        self._since = max(self._since, started_at - self._look_back)
        self._known = {event_id for event_id in self._known if timestamp_of(event_id) >= self._since}
