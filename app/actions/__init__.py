"""Actions: what a workflow does to the outside world. `perform` makes one attempt of a step and returns its Outcome.

An action is one file and one line in ACTIONS. Actions are at-least-once: a worker may die between an effect and its record,
so all attempts of a step have the same idempotency key.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from app.actions import email, http, log, message, sendgrid, sms, voice_call, whatsapp
from app.actions.action_context import Action, ActionContext, ActionError, calling_account
from app.actions.circuit import Deferred
from app.actions.templates.render import Names, TemplateError, find_secret_values, prepare, secrets_read
from app.core.config import SettingsError
from app.core.durations import write_duration
from app.core.exact_json import replace_unstorable
from app.core.models import Outcome

__all__ = ["ACTIONS", "OUT_OF_MEMORY", "Action", "ActionContext", "perform", "preview"]

ACTIONS: Mapping[str, Action] = {
    "http": http,
    "whatsapp": whatsapp,
    "sms": sms,
    "call": voice_call,
    "email": email,
    "sendgrid": sendgrid,
    "message": message,
    "log": log,
}

# The error class of an attempt for which there was not enough memory.
OUT_OF_MEMORY = "memory"
# Seconds. Actions enforce their time-out themselves, with a better message; this is the fallback.
_GRACE_PERIOD = 2.0
_log = structlog.get_logger()


async def perform(step: Mapping[str, Any], context: ActionContext) -> Outcome:
    """Make one attempt of an action step. Raises nothing but CancelledError: failures and bugs of actions are outcomes."""
    verb = next(name for name in step if name in ACTIONS)
    calling_account.set(context.run.account_id)
    strict = step.get("strict", context.run.document.get("strict", False))
    names = prepare({**context.names, "now": context.now}, strict=strict)
    outcome = await _attempt(verb, step[verb], replace(context, names=names), names)
    outcome = context.secrets.mask_outcome(outcome)
    return outcome if outcome.error is None else replace(outcome, error=replace_unstorable(outcome.error))


def preview(step: Mapping[str, Any], context: ActionContext) -> Outcome:
    """What the first attempt of an action step would send, and its outcome if the answer is good. Sends, stores and logs
    nothing, and needs neither a session nor circuit breakers nor a renderer."""
    verb = next(name for name in step if name in ACTIONS)
    strict = step.get("strict", context.run.document.get("strict", False))
    names = prepare({**context.names, "now": context.now}, strict=strict)
    try:
        _open_secrets(step[verb], names, context)
        outcome = ACTIONS[verb].preview(step[verb], replace(context, names=names))
    except TemplateError as exc:
        outcome = Outcome("failed", error=str(exc), error_class="template")
    except ActionError as exc:
        outcome = Outcome("failed", error=str(exc), error_class=exc.error_class)
    return context.secrets.mask_outcome(outcome)


def _open_secrets(fields: Any, names: Names, context: ActionContext) -> None:
    """Make the account's secrets that the fields read available to their templates, and find the further values to mask."""
    if read := secrets_read(fields):
        names.add_secrets(context.secret_values(sorted(read)), context.secrets)
    context.secrets.add_value(find_secret_values(fields, names))


async def _attempt(verb: str, fields: Any, context: ActionContext, names: Names) -> Outcome:
    try:
        async with asyncio.timeout(context.timeout + _GRACE_PERIOD):
            await context.compose(_open_secrets, fields, names, context)
            return await ACTIONS[verb].act(fields, context)
    except TemplateError as exc:
        return Outcome("failed", error=str(exc), error_class="template")
    except ActionError as exc:
        return Outcome("failed", error=str(exc), error_class=exc.error_class)
    except Deferred as deferred:
        return deferred.outcome()
    except SettingsError as exc:
        return Outcome("retry", error=str(exc), error_class="encryption_key")
    except TimeoutError:
        error = f"not done within {write_duration(context.timeout)}"
        return Outcome("retry", error=error, error_class="timeout")
    except MemoryError:
        return Outcome("retry", error="there is not enough memory for it", error_class=OUT_OF_MEMORY)
    except Exception as exc:
        _log.error(
            "an action raised an exception",
            exception=context.secrets.mask(traceback.format_exc()),
            action=verb,
            run=str(context.run.id),
            account=context.run.account_id,
        )
        return Outcome("retry", error=f"{type(exc).__name__}: {exc}"[:500], error_class="bug")
