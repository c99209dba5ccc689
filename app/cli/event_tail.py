"""Following events as they arrive: each is found once, and none is missed.

An event's id is made when it arrives, and it is seen when its transaction commits: a later one may be seen earlier. So each
look goes back for as long as a commit may take, and what was found before is remembered for that long.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from uuid import UUID

from app.core.ids import timestamp_of
from app.db.inspection import StoredEvent

# Events from a moment on that are not among the known ones, oldest first, at most so many.
Ask = Callable[[datetime, Collection[UUID], int], list[StoredEvent]]

MOST_AT_ONCE = 1_000


class Follower:
    """Looks for new events; `look_back` is how long after its arrival an event may become visible."""

    def __init__(self, ask: Ask, clock: Callable[[], datetime], look_back: timedelta) -> None:
        self._ask = ask
        self._clock = clock
        self._look_back = look_back
        self._known: set[UUID] = set()
        self._since = clock() - look_back
        for _ in self.look():
            """What is visible already is nothing new."""

    def look(self) -> Iterator[StoredEvent]:
        """What has become visible since the last look. A look that breaks off is made up for by the next one."""
        began = self._clock()
        while found := self._ask(self._since, self._known, MOST_AT_ONCE):
            for event in found:
                self._known.add(event.id)
                yield event
        self._since = max(self._since, began - self._look_back)
        self._known = {known for known in self._known if timestamp_of(known) >= self._since}
