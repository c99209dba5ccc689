"""The account `demo` with a new API key and an example workflow, for `make run`."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.cli.base import user_name
from app.core.config import Settings
from app.core.models import DEFAULT_PLAN, EVENTS_WRITE, OWNER, PLANS, Actor
from app.services import accounts, api_keys, users, workflows
from app.services.context import AppContext

SLUG = "demo"
# Signs in to the console.
EMAIL = "demo@localhost"
WORKFLOW = "hello"
KEY_NAME = "make run"
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "hello.yaml"
_ECHO_URL = re.compile(r"http://127\.0\.0\.1:\d+/[^\s\"']*")


@dataclass(frozen=True, slots=True)
class Demo:
    """The account, its new API key, whether an earlier key was revoked, the URL that the example workflow calls (None when
    the workflow was changed), and the password of its user in the console (None: the user existed)."""

    account_id: int
    key: str
    key_replaced: bool
    echo_url: str | None
    password: str | None


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
        key_replaced = any(one.name == KEY_NAME and one.revoked_at is None for one in keys)
        key = api_keys.replace_keys_named(context, account_id, KEY_NAME, (EVENTS_WRITE,))
        return Demo(account_id, key, key_replaced, _echo_url(context, account_id), _create_owner(context))
    finally:
        context.database.close()


def _create_owner(context: AppContext) -> str | None:
    """Create the user of the console unless there is one; the password."""
    if users.list_users(context, limit=1):
        return None
    account = accounts.find_account(context, SLUG)
    assert account is not None
    return users.create_user(context, EMAIL, role=(account, OWNER))[1]


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
