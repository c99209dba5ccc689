"""Every page of the console that a browser shows, by its route, and an account that has something to show on each.

`PAGES` is compared with the routes: a new one cannot be forgotten.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

from flask import Flask

from app.actions.circuit_breaker import CircuitChange
from app.actions.integration_kinds import KINDS
from app.db.accounts import AccountDetails
from app.services import accounts, api_keys, data_subjects, integrations, secrets, sources, targets, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run

# Answers that are no pages: files, texts, and fragments of open pages, by their routes.
NO_PAGES = {
    "bootstrap.static",
    "deliveries.download",
    "events.rows",
    "events.show_data",
    "events.show_now",
    "home",
    "overview.show_now",
    "refusals.download",
    "subjects.show_receipts_now",
    "static",
    "workflows.show_source",
}
# By route what comes after the account (or, with a / before it, after /console), with the names of `Filled`.
PAGES = {
    "accounts.show": ["/accounts"],
    "api_keys.show": ["keys"],
    "clients.show": ["clients"],
    "deliveries.plan_replay": ["source/shop/replay"],
    "deliveries.show": ["deliveries", "deliveries?source=shop&result=waiting", "deliveries?result=none"],
    "deliveries.show_one": ["deliveries/{mapped}", "deliveries/{unmapped}"],
    "deliveries.try_request": ["source/shop/try"],
    "events.new": ["events/new", "events/new?{event_filter}"],
    "events.preview_replay": ["events/{event}/replay"],
    "events.show": ["events", "events?{event_filter}", "events?outcome=started&data=x", "events?event=none"],
    "events.show_one": ["events/{event}"],
    "failures.show": ["failures", "failures?period=1h", "failures?workflow=none"],
    "integrations.edit": ["integrations/smtp", "integrations/twilio", "integrations/whatsapp"],
    "integrations.show": ["integrations"],
    "overview.show": [""],
    "profile.show": ["/profile"],
    # The list, and parts with everything that their template has.
    "reference.show": ["/api", "/api?part=limechat", "/api?part=runs"],
    "refusals.plan_replay": ["refusals/replay", "refusals/replay?type=none&since=2026-01-01T00:00"],
    "refusals.show": ["refusals", "refusals?status=400&waiting=1", "refusals?type=none"],
    "refusals.show_one": ["refusals/{refusal}"],
    "runs.plan_cancel": ["runs/cancel", "runs/cancel?workflow=none"],
    "runs.plan_retry": ["runs/retry", "runs/retry?workflow=none"],
    "runs.show": ["runs", "runs?{run_filter}&status=failed", "runs?workflow=none"],
    "runs.show_one": ["runs/{failed}", "runs/{waiting}"],
    "secrets.confirm_remove": ["secrets/SPARE/remove"],
    "secrets.show": ["secrets"],
    "settings.plan_retention": ["settings/retention", "settings/retention?events=1h&runs=soon"],
    "settings.show": ["settings"],
    "settings.show_signing": ["settings/signing"],
    "settings.show_audit": ["audit", "audit?action=none"],
    "sign_in": ["/sign-in"],
    "sources.edit": ["source/shop/edit"],
    "sources.plan_delete": ["source/shop/delete"],
    "sources.prepare": ["sources/new", "sources/new?name=a+b&provider=", "sources/new?name=new&provider=whatsapp"],
    "sources.show": ["sources"],
    "sources.show_one": ["source/shop"],
    "sources.show_version": ["source/shop/versions/2"],
    "subjects.confirm_erasure": ["subject/erase?{subject}"],
    "subjects.find": ["subjects"],
    "subjects.show": ["subject?{subject}", "subject?subject=nobody"],
    "subjects.show_receipts": ["receipts"],
    "subjects.why": ["subject/why?{subject}", "subject/why?{subject}&workflow=failing"],
    "targets.show": ["targets"],
    "upcoming.show": ["upcoming", "upcoming?since=2100-01-01T00:00"],
    "workflow_editor.edit": ["workflows/edit", "workflows/edit?name=draft", "workflows/edit?template=abandoned-cart"],
    "workflow_editor.show_templates": ["workflows/templates"],
    "workflow_trial.show": ["workflows/try?name=failing", "workflows/try?name=failing&event={event}"],
    "workflows.backtest": ["workflow/backtest?name=failing", "workflow/backtest?name=draft"],
    "workflows.plan_delete": ["workflow/delete?name=failing"],
    "workflows.plan_disable": ["workflow/disable?name=failing"],
    "workflows.show": ["workflow?name=failing", "workflow?name=cart", "workflow?name=draft"],
    "workflows.show_all": ["workflows", "workflows?name=fail", "workflows?name=none"],
    "workflows.show_difference": ["workflow/difference?name=draft"],
    "workflows.show_versions": ["workflow/versions?name=draft"],
}
# Those that an account has in which nothing has happened.
EMPTY = (
    "",
    "audit?action=none",
    "clients",
    "deliveries",
    "events",
    "failures",
    "integrations",
    "receipts",
    "refusals",
    "refusals/replay",
    "runs",
    "runs/cancel",
    "runs/retry",
    "secrets",
    "settings",
    "settings/retention",
    "sources",
    "subject/why?subject=nobody",
    "subjects",
    "targets",
    "upcoming",
    "workflows",
)
_SOURCE = "name: shop\nverify: none\nmap: {event: body.kind, distinct_id: body.who}\n"
_TWILIO = {"account_sid": "AC" + "0" * 32, "auth_token": "other", "from": "+15005550006"}


@dataclass(frozen=True, slots=True)
class Filled:
    """Rows of an account by which pages are reached. `text` is in everything that its users and senders have named."""

    slug: str
    text: str
    event: str
    failed: str
    waiting: str
    mapped: str
    unmapped: str
    refusal: str

    def paths(self) -> list[str]:
        """All pages, beginning after /console."""
        return [self.path(path) for paths in PAGES.values() for path in paths]

    def path(self, path: str) -> str:
        """One of the pages of `PAGES`."""
        if path.startswith("/"):
            return path
        values = {name: getattr(self, name) for name in ("event", "failed", "waiting", "mapped", "unmapped", "refusal")}
        filters = {
            "subject": urlencode({"subject": self.text}),
            "event_filter": urlencode({"event": self.text, "subject": self.text, "data": f'data.a = "{self.text}"'}),
            "run_filter": urlencode({"subject": self.text, "target": self.text, "error_class": self.text}),
        }
        return f"/{self.slug}/{path.format(**values, **filters)}"


def fill_account(app: Flask, sender: Sender, text: str, rows: int = 1) -> Filled:
    """Fill an account with `rows` of everything that a sender or a user makes, which have `text` (at most 255 characters)
    wherever they may have any."""
    context: AppContext = app.extensions["context"]
    accounts.update_account_details(context, sender.account_id, AccountDetails(name=text, key_attribute=text))
    for number in range(rows):
        api_keys.create_key(context, sender.account_id, text, ("events:write", "events:read"))
        api_keys.create_client(context, sender.account_id, text)
        workflows.apply_workflow(
            context, sender.account_id, a_workflow(name=f"more-{number}", on=f"{number} {text}"[:255])
        )
    secrets.set_secret(context, sender.account_id, "SPARE", "a secret of the test")
    integrations.set_integration(context, sender.account_id, KINDS["twilio"], _TWILIO)
    data_subjects.erase_subject(context, sender.account_id, "nobody")
    _make_workflows(context, sender, text)
    event, runs = _make_runs(context, sender, text, rows)
    for number in range(rows):
        target = f"https://example.com/{number}/{text}"
        integrations.disable_target(context, sender.account_id, target, text, UUID(runs[0]) if number % 2 else uuid4())
        targets.save_circuits(context, [CircuitChange(sender.account_id, f"POST {target}", 5, 60.0, 60.0)])
    mapped, unmapped = _deliver(context, app, sender, text, rows)
    return Filled(
        sender.slug, text, event, runs[0], runs[1], mapped, unmapped, _refuse(context, app, sender, text, rows)
    )


def _make_workflows(context: AppContext, sender: Sender, text: str) -> None:
    """One that starts and fails, one that waits, one whose pattern has begun, and a draft with mistakes of two versions."""
    quoted = json.dumps(text, ensure_ascii=False)
    cart = {"seq": [{"event": text, "where": f"data.name != {quoted}"}, {"none": "order", "for": "1h"}]}
    steps = [
        {"if": "data.rich == 1", "then": [{"log": text}], "else": [{"set": {"name": quoted}}]},
        {"par": [[{"wait": "1h"}], [{"sms": {"to": "{{ phone }}", "text": text}}]]},
    ]
    for document in (
        a_workflow(name="waiting", description=text, on=text, steps=steps),
        a_workflow(name="cart", description=text, on=cart, steps=[{"log": text}]),
        a_workflow(name="choosy", on={"event": text, "where": f"data.name == {quoted}"}),
    ):
        workflows.apply_workflow(context, sender.account_id, document)
    for more in ("", "steps: {}\n"):
        workflows.save_draft(context, sender.account_id, f"name: draft\ndescription: {quoted}\non: {quoted}\n{more}")


def _make_runs(context: AppContext, sender: Sender, text: str, rows: int) -> tuple[str, list[str]]:
    """Events, of which each starts a run that fails and one that waits: the last event, and its two runs."""
    data = {"a": text, text[:50]: [text] * 30}
    with an_http_target(Answer(500, json.dumps({"error": text}).encode())) as server:
        call = {"url": f"{server.url}/{{{{ distinct_id | url_encode }}}}", "json": data}
        steps = [{"log": text}, {"id": "call", "http": call, "retry": {"attempts": 1}}]
        failing = a_workflow(name="failing", description=text, on=text, steps=steps)
        workflows.apply_workflow(context, sender.account_id, failing)
        for _ in range(rows):
            sent = sender.post(an_event(event=text, distinct_id=text, data=data)).get_json()
            for run in sent["runs"]:
                execute_run(context, sender.account_id, run)
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT status, id FROM runs WHERE event_id = %(event)s AND parent_id IS NULL", {"event": sent["id"]}
        )
        runs = {status: str(run) for status, run in found}
    return sent["id"], [runs["failed"], runs["running"]]


def _deliver(context: AppContext, app: Flask, sender: Sender, text: str, rows: int) -> tuple[str, str]:
    """Deliveries to the source `shop`, which has two versions: a mapped one, and one that was not mapped."""
    token = sources.apply_source(context, sender.account_id, _SOURCE).token
    sources.apply_source(context, sender.account_id, f"{_SOURCE}description: {json.dumps(text)}\n")
    bodies: list[dict[str, Any]] = [{"kind": text, "who": text}] * rows + [{text: text}] * rows
    answers = [app.test_client().post(f"/hooks/{token}", json=body).get_json() for body in bodies]
    assert [answers[0]["result"], answers[-1]["result"]] == ["accepted", "unmapped"]
    return answers[0]["delivery"], answers[-1]["delivery"]


def _refuse(context: AppContext, app: Flask, sender: Sender, text: str, rows: int) -> str:
    """Refused requests; the id of the last."""
    for _ in range(rows):
        answer = sender.post({**an_event(event=text), "phone": text, "distinct_id": text * 2, text: text})
        assert answer.status_code == 422
        answer.close()
    app.extensions["refusals"].flush()
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT id FROM refusals WHERE account_id = %(account)s ORDER BY id DESC LIMIT 1",
            {"account": sender.account_id},
        )
        return str(found.scalar_one())
