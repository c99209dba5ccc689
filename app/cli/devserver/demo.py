"""What `make run` shows a newcomer: the account `demo` with a fresh key and one example workflow."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.core.config import Settings
from app.core.models import EVENTS_WRITE, PLANS
from app.services import accounts, api_keys, workflows
from app.services.context import AppContext

SLUG = "demo"
WORKFLOW = "hello"
KEY_NAME = "make run"
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "hello.yaml"
_LISTENER = re.compile(r"http://127\.0\.0\.1:\d+/[^\s\"']*")


@dataclass(frozen=True, slots=True)
class Demo:
    """What the banner needs: the account, its new key, and where the example workflow calls (None: it was changed)."""

    account_id: int
    token: str
    workflow: str
    listener_url: str | None


def provide(settings: Settings) -> Demo:
    """Make the account and the workflow if they are not there, and its key anew (only its hash is ever kept)."""
    context = AppContext(settings)
    try:
        account = accounts.find_account(context, SLUG)
        account_id = account.id if account else accounts.create_account(context, SLUG, PLANS["trial"])
        names = [workflow.name for workflow in workflows.list_workflows(context, account_id)]
        if account is None or not names:
            workflows.apply_workflow(context, account_id, example())
        token = api_keys.replace_keys_named(context, account_id, KEY_NAME, (EVENTS_WRITE,))
        return Demo(account_id, token, WORKFLOW, _listener_url(context, account_id))
    finally:
        context.database.close()


def example() -> str:
    """The example's text; where the port is taken that its listener would have, with a free one."""
    source = EXAMPLE.read_text("utf-8")
    found = _LISTENER.search(source)
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


def _listener_url(context: AppContext, account_id: int) -> str | None:
    for workflow in workflows.list_workflows(context, account_id):
        if workflow.name == WORKFLOW:
            match = _LISTENER.search(workflow.source)
            return match[0] if match else None
    return None
