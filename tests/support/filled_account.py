"""An account with rows of each kind, for tests that call every command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from flask import Flask

from app.actions.integration_kinds import KINDS
from app.core.models import EVENTS_READ, EVENTS_WRITE, PLANS, VIEWER
from app.db import partitions
from app.db.accounts import AccountDetails
from app.db.refusals import RefusalFilter
from app.services import (
    accounts,
    api_keys,
    data_subjects,
    integrations,
    refusals,
    secrets,
    sources,
    users,
    workflows,
)
from app.services.context import AppContext
from app.services.cxengage import listeners
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run

SOURCE = "name: shop\nverify: none\nmap: {event: body.kind, distinct_id: body.who, data: body}\n"
SECRET = "canary-b1946ac9"
TWILIO = {"account_sid": "AC" + "0" * 32, "auth_token": "other", "from": "+15005550006"}


@contextmanager
def a_filled_account(shop_app: Flask, shop: Sender, folder: Path) -> Iterator[dict[str, Any]]:
    """Fills the account `shop`, with files in the folder, and says what is in it; tidies it up at the end."""
    context: AppContext = shop_app.extensions["context"]
    with an_http_target(Answer(500, b"out of order")) as target, an_http_target(Answer(200, b"{}")) as server:
        files = _files(folder)
        runs = _runs(context, shop, target.url)
        integrations.set_integration(context, shop.account_id, KINDS["twilio"], TWILIO)
        secrets.set_secret(context, shop.account_id, "SPARE", SECRET)
        for path in ("hook", "other"):
            integrations.disable_target(
                context, shop.account_id, f"https://example.com/{path}", "answered 410", uuid4()
            )
        _make_partition(context)
        client, _ = api_keys.create_client(context, shop.account_id, "app", (EVENTS_READ,))
        key = api_keys.create_key(context, shop.account_id, "spare", (EVENTS_WRITE,))
        data_subjects.erase_subject(context, shop.account_id, "nobody")
        yield {
            "account": shop.slug,
            "account_id": shop.account_id,
            "token": shop.token,
            "url": server.url,
            "new": f"new-{uuid4().hex[:8]}",
            "client": client,
            "partition": "events_2001_01",
            "roles": f"commands_{os.getpid()}",
            "key": key,
            "refusal": _refuse(shop_app, shop),
            "user": _make_user(context, shop),
            "delivery": _deliver(shop_app, shop),
            "listener": _listen(context, shop),
            **files,
            **runs,
        }
        _tidy(context, shop)


def _make_user(context: AppContext, shop: Sender) -> str:
    """A user who is signed in; the email address."""
    email = f"{uuid4().hex[:8]}@example.com"
    account = accounts.find_account(context, shop.slug)
    assert account is not None
    users.create_user(context, email, SECRET, role=(account, VIEWER))
    assert users.sign_in(context, email, SECRET, "127.0.0.1", "a browser") is not None
    return email


def _make_partition(context: AppContext) -> None:
    """The partition of a month that has ended, unless it is there."""
    with context.database.transaction() as connection:
        partitions.make_partitions(connection, [datetime(2001, 1, 1, tzinfo=UTC)])


def _refuse(shop_app: Flask, shop: Sender) -> UUID:
    """A refused event, which would be accepted now."""
    context: AppContext = shop_app.extensions["context"]
    accounts.update_account_details(context, shop.account_id, AccountDetails(unusable_phone="refuse"))
    shop_app.extensions["accounts"].find_by_id(shop.account_id)
    answer = shop.post(an_event(phone="1"))
    assert answer.status_code == 422
    answer.close()
    shop_app.extensions["refusals"].flush()
    accounts.update_account_details(context, shop.account_id, AccountDetails(unusable_phone="store"))
    (latest,) = refusals.find_latest_refusals(context, shop.account_id, RefusalFilter(), 1)
    return latest.id


def _listen(context: AppContext, shop: Sender) -> str:
    """A CxEngage listener; its id."""
    account = accounts.find_account(context, shop.slug)
    assert account is not None
    mapping = {account.key_attribute: "customer.id", "total": "lines.0.price"}
    values = {"name": "Shop", "mapping": mapping, "description": "", "type": "", "status": True, "options_json": "{}"}
    return f"LI{listeners.create_listener(context, shop.account_id, values, {}).row.number}"


def _deliver(shop_app: Flask, shop: Sender) -> str:
    """Two deliveries to the source `shop`, which could not be mapped and can be now; the id of one."""
    context: AppContext = shop_app.extensions["context"]
    token = sources.apply_source(context, shop.account_id, SOURCE.replace("body.kind", "body.nothing")).token
    answers = [shop_app.test_client().post(f"/hooks/{token}", json={"kind": "a", "who": "asha"}) for _ in range(2)]
    assert [answer.get_json()["result"] for answer in answers] == ["unmapped", "unmapped"]
    sources.apply_source(context, shop.account_id, SOURCE)
    delivery: str = answers[0].get_json()["delivery"]
    return delivery


def _files(folder: Path) -> dict[str, Path]:
    texts = {
        "document": a_workflow(
            steps=[{"http": {"url": f"https://a.example/?t={SECRET}", "headers": {"X-Shop": SECRET}}}]
        ),
        "another": a_workflow(name="another"),
        "events": json.dumps(an_event()),
        "history": json.dumps({**an_event(), "received_at": "2024-03-05T10:00:00Z"}),
        "simulated": json.dumps({"event": "product_view", "distinct_id": "1", "received_at": "2026-11-22T10:00:00Z"}),
        "secret": SECRET,
        "source": SOURCE.replace("data: body", "data: body, dedupe: body.id"),
        "other_source": SOURCE.replace("shop", "other"),
        "request": 'POST /hooks/x HTTP/1.1\nContent-Type: application/json\n\n{"kind": "a", "who": "asha"}\n',
        "pattern": '(event {:type "hello"})\n(perform echo message {:message "hi"})',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in texts}


def _runs(context: AppContext, shop: Sender, broken_url: str) -> dict[str, str]:
    """An event that started two runs: one waits, one has failed."""
    failing = {"http": {"url": broken_url}, "retry": {"attempts": 1}}
    workflows.apply_workflow(context, shop.account_id, a_workflow(steps=[{"wait": "1h"}]))
    workflows.apply_workflow(context, shop.account_id, a_workflow(name="broken", steps=[failing]))
    for name in ("watch", "broken"):
        workflows.enable_workflow(context, shop.account_id, name)
    answer = shop.post(an_event()).get_json()
    for run in answer["runs"]:
        execute_run(context, shop.account_id, run)
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql("SELECT status, id FROM runs WHERE event_id = %(e)s", {"e": answer["id"]})
        runs = {status: str(run) for status, run in found}
    return {"event": answer["id"], "waiting": runs["running"], "failed": runs["failed"]}


def _tidy(context: AppContext, shop: Sender) -> None:
    """Undo what a command may have done to the account, and leave it the only one."""
    for workflow in workflows.list_workflows(context, shop.account_id):
        workflows.delete_workflow(context, shop.account_id, workflow.name)
    for source in sources.list_sources(context, shop.account_id):
        sources.delete_source(context, shop.account_id, source.name)
    accounts.switch_account(context, shop.account_id, on=True)
    accounts.change_plan(context, shop.account_id, PLANS["unlimited"], None)
    with context.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM accounts WHERE id <> %(id)s", {"id": shop.account_id})
