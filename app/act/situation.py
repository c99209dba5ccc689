"""What an action is given, and what makes something an action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import aiohttp

from app.words import Outcome, Run


@dataclass(frozen=True, slots=True)
class Situation:
    """One attempt: the run and the names its templates see, the key that stays the same over all attempts of the step,
    the account's `signing_secret` (`whsec_…`), how many seconds the attempt may take, the moment (aware) it is made,
    and the session (of `outbound`) that it goes out with."""

    run: Run
    names: Mapping[str, Any]
    idempotency_key: str
    signing_secret: str
    timeout: float
    now: datetime
    session: aiohttp.ClientSession


class Action(Protocol):
    """One kind of action; a module with these two functions is one. It may have a SCHEMA of its fields (JSON Schema), for
    editors, or at least say their names in FIELDS."""

    def check(self, fields: Any, path: str) -> list[tuple[str, str]]:
        """All that is wrong with what an author wrote under the action's name, as (path, message)."""
        ...

    async def act(self, fields: Any, situation: Situation) -> Outcome:
        """Make one attempt with checked fields. Trouble that can be expected is an Outcome, never an exception;
        TemplateError may be raised."""
        ...
