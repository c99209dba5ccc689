"""The account `demo` with a new API key and an example workflow, for `make run`."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.cli.base import user_name
from app.core.config import Settings
from app.core.models import DEFAULT_PLAN, EVENTS_WRITE, PLANS, Actor
from app.services import accounts, api_keys, workflows
from app.services.context import AppContext

SLUG = "demo"
WORKFLOW = "hello"
KEY_NAME = "make run"
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "hello.yaml"
_ECHO_URL = re.compile(r"http://127\.0\.0\.1:\d+/[^\s\"']*")


@dataclass(frozen=True, slots=True)
class Demo:
    """The account, its new API key, whether an earlier key was revoked, and the URL that the example workflow calls (None when
    the workflow was changed)."""

    account_id: int
    token: str
    key_replaced: bool
    echo_url: str | None


def create_demo(settings: Settings) -> Demo:
    """Create the account and the workflow unless they exist, and a new API key: only the hash of the last one is stored."""
    context = AppContext(settings).acting_as(Actor(user_name(), "cli"))
    try:
        account = accounts.find_account(context, SLUG)
        account_id = account.id if account else accounts.create_account(context, SLUG, PLANS[DEFAULT_PLAN])
        names = [workflow.name for workflow in workflows.list_workflows(context, account_id)]
        if account is None or not names:
            workflows.apply_workflow(context, account_id, example())
        keys = api_keys.list_keys(context, account_id)
        key_replaced = any(key.name == KEY_NAME and key.revoked_at is None for key in keys)
        token = api_keys.replace_keys_named(context, account_id, KEY_NAME, (EVENTS_WRITE,))
        return Demo(account_id, token, key_replaced, _echo_url(context, account_id))
    finally:
        context.database.close()


def example() -> str:
    """The document of the example workflow, with another port when its own port is in use."""
    source = EXAMPLE.read_text("utf-8")
    found = _ECHO_URL.search(source)
    port = urlsplit(found[0]).port if found else None
    if port is None or _is_free(port):
        return source
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return source.replace(f"127.0.0.1:{port}", f"127.0.0.1:{trial.getsockname()[1]}")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _echo_url(context: AppContext, account_id: int) -> str | None:
    for workflow in workflows.list_workflows(context, account_id):
        if workflow.name == WORKFLOW:
            match = _ECHO_URL.search(workflow.source)
            return match[0] if match else None
    return None
