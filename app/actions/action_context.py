"""The interface of actions, and what they receive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

from app.actions.circuit_breaker import CircuitBreakers
from app.actions.integration_kinds import KINDS
from app.actions.masking import Secrets
from app.actions.renderer import Renderer
from app.core.config import Settings
from app.core.models import Outcome, Run

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
# The account for which a task makes calls.
calling_account: ContextVar[int] = ContextVar("calling_account", default=0)


@dataclass(frozen=True, slots=True)
class ActionContext:
    """What one attempt of a step receives.

    `names` are what templates can read, `idempotency_key` is the same in all attempts of the step, `timeout` is in seconds,
    `now` is the aware time of the attempt, `signing_secret` begins with `whsec_`. `integration` returns the fields of the
    account's integration of a kind; None when it has none, and it raises SettingsError when they cannot be decrypted.
    `find_secret` does the same for the value of a secret of the account by its name.
    `disabled` maps disabled targets to the reason. `save_message` saves a message (text and data) of this step for the
    account's message stream, once however often it is called, and returns its id. `secrets` are masked in all that is stored.
    """

    run: Run
    names: Mapping[str, Any]
    idempotency_key: str
    signing_secret: str = field(repr=False)
    timeout: float
    now: datetime
    session: aiohttp.ClientSession
    circuit_breakers: CircuitBreakers
    renderer: Renderer
    settings: Settings = field(repr=False)
    integration: Callable[[str], Mapping[str, str] | None] = field(repr=False)
    find_secret: Callable[[str], str | None] = field(repr=False)
    disabled: Mapping[str, str]
    save_message: Callable[[str, Mapping[str, Any]], Awaitable[UUID]] = field(repr=False)
    secrets: Secrets = field(default_factory=Secrets, repr=False)

    async def compose(self, make: Callable[..., T], *arguments: object) -> T:
        """The result of `make(*arguments)`, called in a thread. What renders templates is called like this."""
        return await self.renderer.run(self.run.account_id, make, *arguments)

    def credentials(self, kind: str) -> Mapping[str, str]:
        """The fields of the account's integration of a kind; raises ActionError when it has none."""
        fields = self.integration(kind)
        if fields is None:
            raise ActionError("not_set_up", f"the account has no {kind} integration: set it up")
        self.secrets.add(*(fields[field.name] for field in KINDS[kind].fields if field.secret and field.name in fields))
        return fields

    def secret_values(self, names: Iterable[str]) -> dict[str, str]:
        """The values of secrets of the account; raises ActionError when it lacks one."""
        values = {name: self.find_secret(name) for name in names}
        for name, value in values.items():
            if value is None:
                raise ActionError("no_secret", f"the account has no secret {name}: set it")
        return {name: value for name, value in values.items() if value is not None}


class ActionError(Exception):
    """The step cannot be performed; another attempt would fail as well."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


class Action(Protocol):
    """A kind of action: a module with these functions."""

    def check(self, fields: Any, path: str) -> list[tuple[str, str]]:
        """All errors in the fields that an author wrote, as (path, message)."""
        ...

    async def act(self, fields: Any, context: ActionContext) -> Outcome:
        """Make one attempt with checked fields. Expected failures are outcomes; only TemplateError, ActionError and Deferred
        are raised."""
        ...

    def preview(self, fields: Any, context: ActionContext) -> Outcome:
        """What an attempt with checked fields would send (`request`), without sending or storing anything, and the `output` of a
        good answer. Raises TemplateError and ActionError."""
        ...
