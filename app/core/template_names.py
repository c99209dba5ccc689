"""The names that expressions and templates can use."""

from __future__ import annotations

import re

# Names of an event and the current time, and the further names in the steps of a run. `received_at` and `now` are
# timestamps, `occurred_at` is one or null. For a filter, `now` is the time at which the event was accepted.
EVENT_NAMES = ("event", "distinct_id", "phone", "data", "received_at", "occurred_at", "now")
RUN_NAMES = ("run", "steps", "matched", "vars", "latest", "last")
# Where secrets can be read, a text reads one as `secrets.NAME`.
SECRETS = "secrets"
SECRET_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
