"""What an action is given, and what makes something an action."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from app.actions.circuit_breaker import CircuitBreakers
from app.core.config import Settings
from app.core.models import Outcome, Run

if TYPE_CHECKING:
    import aiohttp


@dataclass(frozen=True, slots=True)
class ActionContext:
    """One attempt: the run and the names its templates see, the key that stays the same over all attempts of the step,
    how many seconds the attempt may take, the moment (aware) it is made, and the way out: the session (of `outbound`)
    that it goes out with, what is known of the destinations, and the settings.

    Of the account: its `signing_secret` (`whsec_…`), the fields of its integration of a kind (None: it has none; raises
    SettingsError without the key to them), and the targets that are `disabled`, each with the reason. `keep_message`
    keeps a message (its text and data) of this step for the account's stream, once, however often it is called; its id.
    """

    run: Run
    names: Mapping[str, Any]
    idempotency_key: str
    signing_secret: str = field(repr=False)
    timeout: float
    now: datetime
    session: aiohttp.ClientSession
    circuit_breakers: CircuitBreakers
    settings: Settings = field(repr=False)
    integration: Callable[[str], Mapping[str, str] | None] = field(repr=False)
    disabled: Mapping[str, str]
    save_message: Callable[[str, Mapping[str, Any]], Awaitable[UUID]] = field(repr=False)

    def credentials(self, kind: str) -> Mapping[str, str]:
        """The fields of the account's integration of a kind; raises ActionError when it has none."""
        fields = self.integration(kind)
        if fields is None:
            raise ActionError(
                "not_set_up", f"the account has no {kind} integration; `flask integration set {kind}` makes one"
            )
        return fields


class ActionError(Exception):
    """An attempt that cannot be made as it is, however often it is tried."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


class Action(Protocol):
    """One kind of action; a module with these two functions is one."""

    def check(self, fields: Any, path: str) -> list[tuple[str, str]]:
        """All that is wrong with what an author wrote under the action's name, as (path, message)."""
        ...

    async def act(self, fields: Any, context: ActionContext) -> Outcome:
        """Make one attempt with checked fields. Trouble that can be expected is an Outcome, never an exception;
        TemplateError, ActionError and Deferred may be raised."""
        ...
