"""The names that expressions and templates can use."""

from __future__ import annotations

# Names of an event, and the further names in the steps of a run.
EVENT_NAMES = ("event", "distinct_id", "phone", "data", "received_at")
RUN_NAMES = ("run", "steps", "matched", "vars", "latest", "last")
