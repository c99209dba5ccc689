"""The cart rescue of docs/workflows.md from the event to the message: a real worker, and APIs and a mail server that accept
only what their documentation allows. Only the waits are shorter."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.fernet import Fernet

from app import create_app
from app.actions.integration_kinds import KINDS
from app.cli.devserver.supervisor import Command, stop_together
from app.core import config
from app.services import integrations, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender, an_event
from tests.support.own_postgres import an_own_postgres
from tests.support.polling import until
from tests.support.providers import TWILIO, WHATSAPP, MailServer, TwilioApi, WhatsAppApi, running
from tests.support.run_execution import rows_of, the_run

CART_RESCUE = """
name: cart-rescue
description: Nudge people who looked at something expensive and did not buy
on:
  event: product_view
  where: data.price > 1000
key: distinct_id
again: 1d
exit_on: order_placed
steps:
  - wait: 1s
  - id: nudge
    whatsapp: {to: "{{ phone }}", template: cart_rescue, language: en, params: ["{{ data.product_name }}"]}
    retry: {attempts: 6, first: 1s, max: 1h}
    timeout: 15s
  - wait_for: {event: order_placed}
    timeout: 2s
    then: [{log: "sold after nudge {{ steps.nudge.body.messages[0].id }}"}]
    else:
      - if: data.price > 5000
        then: [{email: {to: sales@example.com, subject: "Call {{ phone }}", text: "They looked at {{ data.product_name }}."}}]
        else: []
"""
PARCEL = """
name: parcel
on: parcel_sent
steps:
  - id: sent
    sms: {to: "{{ phone }}", text: "Your parcel is on its way: {{ data.link }}"}
  - log: "sent as {{ steps.sent.body.sid }}"
"""


@dataclass
class Shop:
    """An account with both workflows, a running worker, and the providers that it sends with."""

    context: AppContext
    sender: Sender
    whatsapp: WhatsAppApi
    twilio: TwilioApi
    mail: MailServer

    def view(self, number: int, **data: Any) -> list[str]:
        """Post a product view; returns the runs that it starts."""
        data = {"product_name": "Cool Sneakers", **data}
        runs: list[str] = self.send("product_view", number, data)["runs"]
        return runs

    def send(self, name: str, number: int, data: dict[str, Any]) -> Any:
        subject = f"9156734127{number:02}"
        answer = self.sender.post(an_event(event=name, distinct_id=subject, phone=f"+{subject}", data=data))
        assert answer.status_code == 200, answer.get_json()
        return answer.get_json()

    def ended(self, run: str) -> dict[str, Any]:
        """The run's row after it has ended."""
        return until(lambda: self.row(run), lambda row: row["status"] != "running")

    def row(self, run: str) -> dict[str, Any]:
        return the_run(self.context, self.sender.account_id, run)

    def steps(self, run: str) -> list[tuple[str, str, str]]:
        found = rows_of(self.context, "steps", self.sender.account_id, run)
        return [(step["path"], step["action"], step["status"]) for step in found]

    def output(self, run: str, path: str) -> Any:
        found = rows_of(self.context, "steps", self.sender.account_id, run)
        return next(step["output"] for step in found if step["path"] == path)

    def nudges(self, number: int) -> list[Any]:
        """The messages to a recipient."""
        return [message for message in self.whatsapp.accepted if message["to"] == f"9156734127{number:02}"]

    def letters(self, number: int) -> list[Any]:
        """The mails to sales about a subject."""
        about = f"Call +9156734127{number:02}"
        return [letter for letter in self.mail.letters if letter.message["Subject"] == about]


HANGING = """
name: hanging
on: hang
steps:
  - http: {url: "http://127.0.0.1:PORT/"}
    timeout: 8s
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with ExitStack() as stack:
        postgres = stack.enter_context(an_own_postgres())
        whatsapp, twilio = stack.enter_context(running(WhatsAppApi())), stack.enter_context(running(TwilioApi()))
        mail = stack.enter_context(MailServer(tmp_path_factory.mktemp("mail")).running())
        environment = {
            **os.environ,
            "DATABASE_URL": postgres.url,
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "ALLOWED_PRIVATE_TARGETS": "127.0.0.0/8",
            "WHATSAPP_BASE_URL": whatsapp.url,
            "TWILIO_BASE_URL": twilio.url,
            "LOG_LEVEL": "error",
        }
        app = create_app(config.from_environment(environment))
        context: AppContext = app.extensions["context"]
        stack.callback(context.database.close)
        sender = a_sender(context, app.test_client())
        for kind, fields in (("whatsapp", WHATSAPP), ("twilio", TWILIO), ("smtp", mail.fields())):
            integrations.set_integration(context, sender.account_id, KINDS[kind], fields)
        for document in (CART_RESCUE, PARCEL):
            workflows.apply_workflow(context, sender.account_id, document)
        worker = Command([sys.executable, "-m", "app.cli", "worker"], environment)
        stack.callback(lambda: stop_together([worker], 20))
        worker.start()
        yield Shop(context, sender, whatsapp, twilio, mail)


def test_an_order_after_the_nudge_is_recorded_as_sold(shop: Shop) -> None:
    (run,) = shop.view(1, price=1999)
    until(lambda: shop.nudges(1), bool)
    until(lambda: shop.row(run), lambda row: row["at"] == "steps[2]")
    shop.send("order_placed", 1, {"total": 1999})
    assert shop.ended(run)["status"] == "done"
    assert shop.steps(run) == [
        ("steps[0]", "wait", "done"),
        ("steps[1]", "whatsapp", "done"),
        ("steps[2]", "wait_for", "done"),
        ("steps[2].then[0]", "log", "done"),
    ]
    message_id = shop.output(run, "steps[1]")["body"]["messages"][0]["id"]
    assert message_id.startswith("wamid.")
    assert shop.output(run, "steps[2].then[0]") == {"text": f"sold after nudge {message_id}"}
    assert shop.letters(1) == []


def test_the_nudge_is_the_template_message_of_the_documentation(shop: Shop) -> None:
    (run,) = shop.view(2, price=1999)
    (message,) = until(lambda: shop.nudges(2), bool)
    assert message == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "915673412702",
        "type": "template",
        "template": {
            "name": "cart_rescue",
            "language": {"code": "en"},
            "components": [{"type": "body", "parameters": [{"type": "text", "text": "Cool Sneakers"}]}],
        },
    }
    shop.ended(run)
    assert shop.whatsapp.complaints == []


def test_sales_get_a_mail_about_an_expensive_cart_without_an_order(shop: Shop) -> None:
    (run,) = shop.view(3, price=9000)
    assert shop.ended(run)["status"] == "done"
    assert shop.steps(run)[-2:] == [("steps[2].else[0]", "if", "done"), ("steps[2].else[0].then[0]", "email", "done")]
    (letter,) = shop.letters(3)
    assert (letter.sender, letter.recipients) == ("shop@example.com", ["sales@example.com"])
    assert (letter.over_tls, letter.login) == (True, "shop")
    assert letter.message.get_content() == "They looked at Cool Sneakers.\r\n"
    assert letter.message["Message-ID"] == f"<{run}-4.signalbox@example.com>"


def test_sales_get_no_mail_about_a_cheaper_cart(shop: Shop) -> None:
    (run,) = shop.view(4, price=1999)
    assert shop.ended(run)["status"] == "done"
    assert shop.steps(run)[-1] == ("steps[2].else[0]", "if", "done")
    assert shop.letters(4) == []


def test_an_order_before_the_nudge_prevents_it(shop: Shop) -> None:
    (run,) = shop.view(5, price=1999)
    shop.send("order_placed", 5, {"total": 1999})
    after = shop.ended(run)
    assert after["status"] == "exited"
    assert after["error"].startswith("exit_on: order_placed")
    assert shop.nudges(5) == []


def test_a_view_of_a_cheap_product_starts_nothing(shop: Shop) -> None:
    assert shop.view(6, price=1000) == []


def test_a_subject_is_nudged_once_a_day(shop: Shop) -> None:
    (run,) = shop.view(7, price=1999)
    assert shop.view(7, price=2999) == []
    shop.ended(run)
    assert len(shop.nudges(7)) == 1


def test_a_nudge_is_retried_after_a_rate_limit(shop: Shop) -> None:
    body = {"error": {"message": "(#131056) pair rate limit hit", "type": "OAuthException", "code": 131056}}
    (run,) = shop.view(8, price=1999)
    with shop.whatsapp.lock:
        shop.whatsapp.instead.append((400, body))
    assert shop.ended(run)["status"] == "done"
    assert len(shop.nudges(8)) == 1
    attempts = rows_of(shop.context, "attempts", shop.sender.account_id, run)
    assert [(row["outcome"], row["error_class"]) for row in attempts if row["ordinal"] == 1] == [
        ("retry", "whatsapp_131056"),
        ("done", None),
    ]


def test_a_text_message_is_sent_by_twilio(shop: Shop) -> None:
    (run,) = shop.send("parcel_sent", 9, {"link": "https://example.com/t/1?a=b&c=d"})["runs"]
    assert shop.ended(run)["status"] == "done"
    assert shop.twilio.complaints == []
    assert shop.twilio.accepted == [
        {
            "To": "+915673412709",
            "From": "+15017122661",
            "Body": "Your parcel is on its way: https://example.com/t/1?a=b&c=d",
        }
    ]
    assert shop.output(run, "steps[1]") == {"text": f"sent as {shop.output(run, 'steps[0]')['body']['sid']}"}


def test_a_target_that_hangs_delays_no_other_run(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        document = HANGING.replace("PORT", str(listener.getsockname()[1]))
        workflows.apply_workflow(shop.context, shop.sender.account_id, document)
        # More runs than the worker executes at a time.
        hanging = [shop.send("hang", 10, {})["runs"][0] for _ in range(80)]
        began = time.monotonic()
        (run,) = shop.send("parcel_sent", 11, {"link": "x"})["runs"]
        assert shop.ended(run)["status"] == "done"
        assert time.monotonic() - began < 5
        assert {shop.row(one)["status"] for one in hanging} == {"running"}
