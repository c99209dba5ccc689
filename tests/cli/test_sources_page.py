"""docs/sources.md: its documents are valid, its commands work in their order, and its sources accept what providers post."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from flask.testing import FlaskClient

from app.ingest.sources.delivery_values import DeliveryRequest
from app.ingest.sources.trial import read_request
from app.services import sources
from app.services.context import AppContext
from app.services.cxengage import listeners
from app.workflows.sources.preset_files import sample_of
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender
from tests.support.server import running_server
from tests.support.webhook_senders import FORM, SENDERS, WebhookSender, a_delivery

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "sources.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
BASE_URL = "https://events.example.com"
SECRET = "a-secret-of-orders"
BY_NAME: dict[str, WebhookSender] = {sender.name: sender for sender in SENDERS}
MAX_LINES = 60


class Walk:
    """Follows the page. `url`: that of the last new source. `delivery`: the id for $DELIVERY. `listener_url`: that of LI1."""

    def __init__(self, signalbox: CommandLine, context: AppContext, client: FlaskClient, acme: Sender) -> None:
        self.signalbox, self.context, self.client, self.acme = signalbox, context, client, acme
        self.url = self.delivery = self.listener_url = ""
        self.outputs: dict[str, str] = {}

    def follow(self, title: str) -> None:
        """Write the files of a section, and run its commands in their order."""
        text = SECTIONS[title]
        for block in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            if block[1] in ("yaml", "http"):
                name = re.findall(r"`([\w.]+)`:\s*$", text[: block.start()])
                Path(name[0]).write_text(block[2])
            elif "curl" in block[2]:
                self.outputs["curl"] = self._run_in_shell(block[2])
            else:
                for line in block[2].splitlines():
                    self._run(line)

    def add_listener(self) -> None:
        """The listener LI1."""
        mapping = {"key": "customer.id", "type": "topic"}
        values = {
            "name": "Shop",
            "mapping": mapping,
            "description": "",
            "type": "",
            "status": True,
            "options_json": "{}",
        }
        made = listeners.create_listener(self.context, self.acme.account_id, values, {})
        assert made.row.number == 1
        self.listener_url = f"/1.0/tenants/{self.acme.slug}/listeners/LI1/receive?token={made.token}"

    def _run(self, line: str) -> None:
        words = shlex.split(line.replace("$DELIVERY", self.delivery), comments=True)
        assert words[0] == "signalbox", line
        words, target = (words[1:-2], words[-1]) if ">" in words else (words[1:], None)
        account = [] if words[1] == "check" else ["--account", self.acme.slug]
        result = self.signalbox(*words, *account, typed=SECRET if words[0] == "secret" else None)
        is_unsigned = words[:2] == ["source", "try"]
        assert result.exit_code in ((0, 1) if is_unsigned else (0,)), (line, result.output)
        if target is not None:
            Path(target).write_bytes(result.stdout_bytes)
        self.outputs[" ".join(words)] = result.output
        if found := re.search(r"^url=(\S+)$", result.stdout, re.MULTILINE):
            self.url = found[1]
            assert self.url.startswith(f"{BASE_URL}/hooks/")

    def _run_in_shell(self, text: str) -> str:
        settings = self.context.settings
        with running_server(DATABASE_URL=settings.database_url, ENCRYPTION_KEY=settings.encryption_keys[0]) as server:
            url = self.url.replace(BASE_URL, f"http://127.0.0.1:{server.port}")
            environment = {"PATH": "/usr/bin:/bin", "ORDERS": SECRET, "SHOPIFY": SECRET, "URL": url}
            done = subprocess.run(["bash", "-ec", text], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def post(self, request: DeliveryRequest) -> Any:
        """The answer to a request to the last new source."""
        answer = self.client.open(
            self.url.removeprefix(BASE_URL),
            base_url=BASE_URL,
            method="POST",
            data=request.raw_body,
            headers=dict(request.headers),
        )
        assert answer.status_code == 200, answer.text
        return answer

    def post_signed(self, provider: str, request: DeliveryRequest) -> Any:
        """The answer to a request, as a provider signs it."""
        sent = BY_NAME[provider].sign(replace(request, url=self.url), SECRET, datetime.now(UTC))
        return self.post(sent)

    def post_sample(self, preset: str) -> list[str]:
        """Post the signed sample of a preset; the names of its events."""
        answer = self.post_signed(preset, read_request(sample_of(preset), 1_000_000)).get_json()
        assert (answer["result"], answer["duplicates"]) == ("accepted", 0)
        return self.names(answer)

    def names(self, answer: Any) -> list[str]:
        """The names of the events in an answer."""
        found = [self.signalbox("event", "show", one, "--json") for one in answer["events"]]
        return [json.loads(one.stdout)["event"] for one in found]


@pytest.fixture
def walk(
    signalbox: CommandLine,
    context: AppContext,
    client: FlaskClient,
    acme: Sender,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Walk]:
    monkeypatch.chdir(tmp_path)
    yield Walk(signalbox, context, client, acme)


def _shopify(walk: Walk) -> None:
    answer = json.loads(walk.outputs["curl"])
    assert (answer["result"], walk.names(answer)) == ("accepted", ["orders/create"])
    assert walk.post_sample("shopify") == ["orders/create"]


def _razorpay(walk: Walk) -> None:
    assert walk.post_sample("razorpay") == ["payment.captured"]


def _whatsapp(walk: Walk) -> None:
    query = urlencode({"hub.mode": "subscribe", "hub.verify_token": SECRET, "hub.challenge": "1158201444"})
    assert walk.client.get(f"{urlsplit(walk.url).path}?{query}").text == "1158201444"
    assert walk.post_sample("whatsapp") == ["message.text", "message.status.delivered"]


def _twilio(walk: Walk) -> None:
    form = urlencode({"MessageSid": "SM1", "MessageStatus": "delivered", "To": "+915673412780"}).encode()
    answer = walk.post_signed("twilio", a_delivery(form, content_type=FORM))
    assert walk.names(answer.get_json()) == ["sms.delivered"]


def _slack(walk: Walk) -> None:
    test = a_delivery(b'{"type": "url_verification", "challenge": "3eZbrw1aB"}')
    assert walk.post_signed("slack", test).text == "3eZbrw1aB"
    event = a_delivery(
        b'{"type": "event_callback", "event_id": "Ev1", "event_time": 1795927500, "event": {"type": "app_mention", "user": "U1"}}'
    )
    assert walk.names(walk.post_signed("slack", event).get_json()) == ["slack.app_mention"]


def _listener(walk: Walk) -> None:
    for url in (walk.url, walk.listener_url):
        walk.url = url
        answer = walk.post(a_delivery(b'{"customer": {"id": 7}, "topic": "order"}')).get_json()
        assert (answer["result"], walk.names(answer)) == ("accepted", ["order"])


@pytest.mark.parametrize(
    ("title", "check"),
    [
        ("Shopify", _shopify),
        ("Razorpay", _razorpay),
        ("WhatsApp", _whatsapp),
        ("Twilio", _twilio),
        ("Slack", _slack),
        ("CxEngage listeners", _listener),
    ],
)
def test_what_a_provider_posts_is_accepted_after_the_commands_of_its_section(
    title: str, check: Callable[[Walk], None], walk: Walk
) -> None:
    walk.add_listener()
    walk.follow(title)
    check(walk)


def test_any_other_sender_is_accepted_and_its_deliveries_are_tried_shown_and_mapped_again(walk: Walk) -> None:
    walk.follow("Any other sender")
    answer = json.loads(walk.outputs["curl"])
    assert (answer["result"], walk.names(answer)) == ("accepted", ["order.paid"])
    tried = walk.outputs["source try orders.yaml order.http --secret ORDERS=a-secret-of-orders"]
    assert "verified: no, the header x-signature is missing" in tried
    assert "  phone: +919876543210" in tried
    sources.set_enabled(walk.context, walk.acme.account_id, "orders", enabled=False)
    body = b'{"id": "o-2", "status": "sent", "customer": {"id": "c-7"}}'

    kept = walk.post(_signed(body)).get_json()
    assert kept["result"] == "unmapped"
    walk.delivery = kept["delivery"]
    walk.follow("Trying")
    assert "  event: order.sent" in walk.outputs[f"source try orders.yaml --delivery {walk.delivery}"]
    walk.follow("What came in")
    assert Path("body.json").read_bytes() == body
    assert walk.delivery in walk.outputs["delivery list --result unmapped --result partly --since 2d"]
    sources.set_enabled(walk.context, walk.acme.account_id, "orders", enabled=True)
    walk.follow("Mapping again")
    assert "would map 1 delivery again" in walk.outputs["source replay orders --dry-run"]
    assert "1 of 1 mapped: 1 new event" in walk.outputs["source replay orders --since 2d --yes"]
    old = walk.url
    walk.follow("A new secret, a new URL")
    for url in (old, walk.url):
        walk.url = url
        assert walk.post(_signed(body)).get_json()["result"] == "duplicate"


def _signed(body: bytes) -> DeliveryRequest:
    """A delivery to the source `orders`."""
    signer = replace(BY_NAME["razorpay"], secret=SECRET)
    sent = signer.sign(a_delivery(body), SECRET, datetime.now(UTC))
    return replace(sent, headers={**sent.headers, "X-Signature": sent.headers["x-razorpay-signature"]})


def test_every_section_with_commands_is_followed() -> None:
    followed = {
        *("Shopify", "Razorpay", "WhatsApp", "Any other sender", "Twilio", "Slack", "CxEngage listeners"),
        *("Trying", "What came in", "Mapping again", "A new secret, a new URL"),
    }
    assert {title for title, text in SECTIONS.items() if "```sh" in text} == followed


@pytest.mark.parametrize("title", ["Shopify", "Razorpay", "WhatsApp", "Any other sender"])
def test_a_source_fits_on_a_screen(title: str) -> None:
    assert len(SECTIONS[title].splitlines()) <= MAX_LINES
