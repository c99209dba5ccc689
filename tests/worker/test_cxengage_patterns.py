"""CxEngage patterns from the event to the message: compiled, matched, executed by a real worker, and sent to fake services that
accept only documented requests. Only the waiting times are shorter."""

from __future__ import annotations

import os
import sys
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
from app.workflows.cxengage import compile_pattern, compile_script
from app.workflows.yaml_loader import write_document
from tests.support.builders import Sender, a_sender, an_event
from tests.support.own_postgres import an_own_postgres
from tests.support.polling import until
from tests.support.providers import SENDGRID, TWILIO, SendGridApi, TwilioApi, running, twilio_error
from tests.support.run_execution import the_run

TEMPLATES = {
    "TM1": "Hello {{first-name}}{{#vip}}, dear friend{{/vip}}!",
    "TM2": "{{count}} services cost {{total}}",
}

# The first example of the reference.
WHEN = """
(within 1 hours (all (count 2 (event (and (= customerSegment "platinum") (= type "flcheck"))))
                     (count 1 (event (and (= customerSegment "platinum") (= type "cnclticket"))))))
"""
THEN = """
(seq (send echo message {:message "Hello"}) (delay 1 second)
     (send twilio sms {:to-phone-number *phone-number*} (template {:message +TM1}) (retries 3) (within 30 seconds)
           (success (set sid $call-id)) (failure (send echo message {:message *custId*})))
     (send echo message {:message sid}))
"""
# The second one.
CAR_SERVICE = """
(within 30 days (times 4 (event {:product "car" :type "service"})))
(let [total (sum (all $maintenance-cost))]
  (create sendgrid email {:to "dealer@example.com" :subject "Service" :message total})
  (when (> total 5000) (create twilio sms {:to "+15552334444" :message "Call the customer"})))
"""
# The commands that the examples do not use.
WORDS = """
(def company "acme") ; of all
(event {:type "order" :amount (and (> 10) (< 1000)) :items (contains? "2L_PEPSI")})
(def rounds 0)
(let [total (* $amount 1.1)
      more (filter (> 15) (all $amount))]
  (let [total (+ total 1)]
    (perform echo message {:message total}))
  (delay 1 second)
  (perform echo message {:message (template "{{company}} {{total}} {{first-name}}")})
  (set company (count more)))
(until (= rounds 3)
  (set rounds (inc rounds)))
(when-let [result (create twilio call {:to $phone-number :message "Hello <you>"} (retries 1))]
  (delay 1 second)
  (perform echo message {:message result.to}))
(if-let [failed (create twilio call {:to $nobody :message "x"} (catch (perform echo message {:message "caught"})))]
  (perform echo message {:message "never"})
  (set company "nobody"))
(unless (= rounds 3) (perform echo message {:message "never"}))
(cond (= company "acme") (perform echo message {:message "never"})
      (> rounds 2) (perform echo message {:message rounds}))
(case $missing nil (perform generic message {:body company}) (perform echo message {:message "never"}))
"""


@dataclass
class Tenant:
    """An account with its patterns on, a running worker, and the services that it calls."""

    context: AppContext
    sender: Sender
    twilio: TwilioApi
    sendgrid: SendGridApi

    def send(self, subject: str, **data: Any) -> list[str]:
        """Send an event of a person; returns the runs that it starts."""
        answer = self.sender.post(an_event(event="event", distinct_id=subject, data=data))
        assert answer.status_code == 200, answer.get_json()
        runs: list[str] = answer.get_json()["runs"]
        return runs

    def ended(self, run: str) -> dict[str, Any]:
        """The run's row after its end."""
        return until(lambda: the_run(self.context, self.sender.account_id, run), lambda row: row["status"] != "running")

    def outputs(self, subject: str, action: str) -> list[Any]:
        """The outputs of the steps of a person's runs, including blocks, in the order of completion."""
        with self.context.database.transaction() as connection:
            found = connection.exec_driver_sql(
                "SELECT output FROM steps JOIN runs ON runs.account_id = steps.account_id AND runs.id = run_id"
                " WHERE steps.account_id = %(account)s AND runs.distinct_id = %(subject)s AND action = %(action)s"
                " ORDER BY steps.finished_at",
                {"account": self.sender.account_id, "subject": subject, "action": action},
            )
            return [row[0] for row in found]

    def logged(self, subject: str) -> list[str]:
        """The lines that a person's runs logged."""
        return [output["text"] for output in self.outputs(subject, "log")]


@pytest.fixture(scope="module")
def tenant() -> Iterator[Tenant]:
    with ExitStack() as stack:
        postgres = stack.enter_context(an_own_postgres())
        twilio, sendgrid = stack.enter_context(running(TwilioApi())), stack.enter_context(running(SendGridApi()))
        environment = {
            **os.environ,
            "DATABASE_URL": postgres.url,
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "ALLOWED_PRIVATE_TARGETS": "127.0.0.0/8",
            "TWILIO_BASE_URL": twilio.url,
            "SENDGRID_BASE_URL": sendgrid.url,
            "LOG_LEVEL": "error",
        }
        app = create_app(config.from_environment(environment))
        context: AppContext = app.extensions["context"]
        stack.callback(context.database.close)
        sender = a_sender(context, app.test_client())
        for kind, fields in (("twilio", TWILIO), ("sendgrid", SENDGRID)):
            integrations.set_integration(context, sender.account_id, KINDS[kind], fields)
        for document in (
            compile_pattern(when=WHEN, then=THEN, templates=TEMPLATES, name="platinum"),
            compile_script(CAR_SERVICE, key="owner", templates=TEMPLATES, name="car-service"),
            compile_script(WORDS, key=None, templates=TEMPLATES, name="words"),
        ):
            workflows.apply_workflow(context, sender.account_id, write_document(document))
        worker = Command([sys.executable, "-m", "app.cli", "worker"], environment)
        stack.callback(lambda: stop_together([worker], 20))
        worker.start()
        yield Tenant(context, sender, twilio, sendgrid)


def platinum(kind: str, **more: Any) -> dict[str, Any]:
    return {"customerSegment": "platinum", "type": kind, **more}


def test_the_first_example_sends_a_greeting_waits_and_sends_an_sms(tenant: Tenant) -> None:
    assert tenant.send("jane", **platinum("flcheck", **{"first-name": "Jane", "vip": True})) == []
    assert tenant.send("jane", **platinum("cnclticket", **{"phone-number": "+15552334401"})) == []
    (run,) = tenant.send("jane", **platinum("flcheck", custId="C-1"))
    assert tenant.ended(run)["status"] == "done"
    (message,) = [form for form in tenant.twilio.accepted if form["To"] == "+15552334401"]
    assert message["Body"] == "Hello Jane, dear friend!"
    hello, sid = tenant.logged("jane")
    assert (hello, sid[:2]) == ("Hello", "SM")


def test_the_first_example_reports_a_failed_sms(tenant: Tenant) -> None:
    for kind in ("flcheck", "flcheck"):
        tenant.send("joe", **platinum(kind, **{"phone-number": "nowhere"}))
    (run,) = tenant.send("joe", **platinum("cnclticket", custId="C-2"))
    assert tenant.ended(run)["status"] == "done"
    assert tenant.logged("joe") == ["Hello", "C-2", ""]


def test_the_first_example_retries(tenant: Tenant) -> None:
    with tenant.twilio.lock:
        tenant.twilio.instead.append(twilio_error(503, 20503, "Service unavailable"))
    for kind in ("flcheck", "flcheck"):
        tenant.send("jim", **platinum(kind, **{"phone-number": "+15552334403"}))
    (run,) = tenant.send("jim", **platinum("cnclticket"))
    assert tenant.ended(run)["status"] == "done"
    assert [form["Body"] for form in tenant.twilio.accepted if form["To"] == "+15552334403"] == ["Hello !"]


def service(owner: str, cost: Any) -> dict[str, Any]:
    return {"owner": owner, "product": "car", "type": "service", "maintenance-cost": cost}


@pytest.mark.parametrize(("owner", "cost", "texts"), [("o1", 1250, 0), ("o2", 1250.01, 1)])
def test_the_second_example_sums_up_per_key(tenant: Tenant, owner: str, cost: Any, texts: int) -> None:
    before = len(tenant.sendgrid.accepted), len(tenant.twilio.accepted)
    for driver in ("ann", "bob", "cid"):
        assert tenant.send(driver, **service(owner, cost)) == []
    (run,) = tenant.send("ann", **service(owner, cost))
    assert tenant.ended(run)["status"] == "done"
    (letter,) = tenant.sendgrid.accepted[before[0] :]
    assert letter["personalizations"] == [{"to": [{"email": "dealer@example.com"}]}]
    assert letter["subject"] == "Service"
    sent = tenant.twilio.accepted[before[1] :]
    assert sent == [{"To": "+15552334444", "From": TWILIO["from"], "Body": "Call the customer"}] * texts


def test_all_other_commands_work(tenant: Tenant) -> None:
    order = {
        "type": "order",
        "amount": 20.5,
        "items": ["2L_PEPSI"],
        "phone-number": "+15552334405",
        "first-name": "Eve",
    }
    assert tenant.send("eve", **{**order, "amount": 5}) == []
    assert tenant.send("eve", **{**order, "items": ["WATER"]}) == []
    (run,) = tenant.send("eve", **order)
    after = tenant.ended(run)
    assert (after["status"], after["error"]) == ("done", None)
    assert tenant.logged("eve") == ["23.55", "acme 22.55 Eve", "+15552334405", "caught", "3"]
    assert [output["text"] for output in tenant.outputs("eve", "message")] == ["nobody"]
    (call,) = [form for form in tenant.twilio.accepted if form["To"] == "+15552334405"]
    assert call["Twiml"] == "<Response><Say>Hello &lt;you&gt;</Say></Response>"
    assert tenant.outputs("eve", "repeat")[-1] == {"rounds": 3, "ended": "until"}
    assert tenant.twilio.complaints == []
    assert tenant.sendgrid.complaints == []
