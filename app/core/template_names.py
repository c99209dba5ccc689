"""The names that expressions and templates can use."""

from __future__ import annotations

# Names of an event and the current time, and the further names in the steps of a run. `received_at` and `now` are
# timestamps. For a filter, `now` is the time at which the event was accepted.
EVENT_NAMES = ("event", "distinct_id", "phone", "data", "received_at", "now")
RUN_NAMES = ("run", "steps", "matched", "vars", "latest", "last")
