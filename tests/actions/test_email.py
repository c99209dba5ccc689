"""The action `email` with a real SMTP server: STARTTLS, TLS, login, refusals, and header injection."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.actions import email
from app.core.models import Outcome
from tests.support.action_contexts import KEY, NOW, perform
from tests.support.providers import PASSWORD, MailServer, ReceivedMail

# A TLS handshake that fails leaves asyncio's own transport to the garbage collector, which warns of it on a busy machine.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


CALL = {"to": "sales@example.com", "subject": "Call {{ phone }}", "text": "They saw something for {{ data.price }} €"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MailServer]:
    with MailServer(tmp_path).running() as one:
        yield one


def send(server: MailServer, fields: dict[str, Any] | None = None, /, *allowed: str, **changes: Any) -> Outcome:
    """The outcome of one attempt with these fields; a field that is None is left out."""
    given = {name: value for name, value in {**CALL, **(fields or {})}.items() if value is not None}
    changes.setdefault("integration", {"smtp": server.fields()}.get)
    return perform({"email": given}, *allowed, **changes)


def sent(server: MailServer, fields: dict[str, Any] | None = None, **changes: Any) -> ReceivedMail:
    """The received message."""
    outcome = send(server, fields, **changes)
    assert outcome.kind == "done", outcome
    return server.letters[-1]


# Messages


def test_the_message_arrives_as_it_was_written(server: MailServer) -> None:
    letter = sent(server)
    message = letter.message
    assert (letter.sender, letter.recipients) == ("shop@example.com", ["sales@example.com"])
    assert (message["From"], message["To"]) == ("Shop <shop@example.com>", "sales@example.com")
    assert message["Subject"] == "Call +915673412780"
    assert message.get_content_type() == "text/plain"
    assert message.get_content() == "They saw something for 1999 €\r\n"


def test_the_message_is_sent_over_tls_after_a_login(server: MailServer) -> None:
    letter = sent(server)
    assert (letter.over_tls, letter.login) == (True, "shop")


def test_a_server_may_use_tls_from_the_start(tmp_path: Path) -> None:
    with MailServer(tmp_path, security="tls").running() as server:
        letter = sent(server)
    assert (letter.over_tls, letter.login) == (True, "shop")


def test_a_server_may_use_no_tls(tmp_path: Path) -> None:
    with MailServer(tmp_path, security="none").running() as server:
        letter = sent(server)
    assert (letter.over_tls, letter.login) == (False, None)


def test_text_and_html_go_out_as_alternatives(server: MailServer) -> None:
    message = sent(server, {"html": "<p>Grüße für {{ phone }}</p>"}).message
    assert message.get_content_type() == "multipart/alternative"
    kinds = [part.get_content_type() for part in message.iter_parts()]
    assert kinds == ["text/plain", "text/html"]
    html = message.get_body(("html",))
    assert html is not None
    assert "<p>Grüße für +915673412780</p>" in html.get_content()


def test_html_needs_no_plain_text(server: MailServer) -> None:
    assert sent(server, {"text": None, "html": "<p>hello</p>"}).message.get_content_type() == "text/html"


def test_lines_that_begin_with_a_dot_are_unchanged(server: MailServer) -> None:
    text = sent(server, {"text": "one\n.two\n..\n.\nend"}).message.get_content()
    assert text.split("\r\n") == ["one", ".two", "..", ".", "end", ""]


def test_a_subject_keeps_what_joins_letters_and_emoji(server: MailServer) -> None:
    letter = sent(server, {"subject": "शर्\u200dमा 👩\u200d👧", "text": "x"})
    assert letter.message["Subject"] == "शर्\u200dमा 👩\u200d👧"


def test_non_ascii_characters_are_sent_as_7_bit_text(server: MailServer) -> None:
    letter = sent(server, {"subject": "Grüße", "text": "Grüße", "html": "<b>Grüße</b>"})
    assert letter.raw.isascii()
    assert letter.message["Subject"] == "Grüße"


def test_there_may_be_several_recipients(server: MailServer) -> None:
    letter = sent(server, {"to": ["a@example.com", "Bé <b@example.com>"], "cc": "c@example.com"})
    assert letter.recipients == ["a@example.com", "b@example.com", "c@example.com"]
    assert letter.message["To"] == "a@example.com, Bé <b@example.com>"
    assert letter.message["Cc"] == "c@example.com"


def test_sender_and_reply_address_may_be_chosen(server: MailServer) -> None:
    letter = sent(server, {"from": "Ada <ada@shop.example>", "reply_to": "help@example.com"})
    assert letter.sender == "ada@shop.example"
    assert (letter.message["From"], letter.message["Reply-To"]) == ("Ada <ada@shop.example>", "help@example.com")


def test_all_attempts_have_the_same_message_id(server: MailServer) -> None:
    ids = {sent(server).message["Message-ID"] for _ in range(2)}
    assert ids == {f"<{KEY}.signalbox@example.com>"}


def test_the_message_is_marked_as_automatic(server: MailServer) -> None:
    message = sent(server).message
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime == NOW


@pytest.mark.parametrize("evil", ["x\r\nBcc: evil@example.com", "x\nTo: evil@example.com", "x\r\n\r\n<p>", "x\x00\x1b"])
def test_no_data_can_add_a_header(server: MailServer, evil: str) -> None:
    names = {"data": {"evil": evil}, "phone": "1"}
    letter = sent(server, {"subject": "Hello {{ data.evil }}", "text": "x"}, names=names)
    headers = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"]
    assert [name for name in letter.message if not name.startswith(("Content-", "MIME-"))] == headers
    assert letter.recipients == ["sales@example.com"]


@pytest.mark.parametrize(
    "evil",
    ["a@example.com, evil@example.com", "a@example.com\r\nRCPT TO:<evil@example.com>", "a@example.com> <b@example.com"],
)
def test_no_data_can_add_a_recipient(server: MailServer, evil: str) -> None:
    outcome = send(server, {"to": "{{ data.evil }}"}, names={"data": {"evil": evil}})
    assert (outcome.kind, outcome.error_class) == ("failed", "bad_address")
    assert server.letters == []


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"subject": "{{ data.nothing }}"}, "the subject is empty"),
        ({"text": "{{ data.nothing }}"}, "the message is empty"),
    ],
)
def test_an_empty_message_is_not_sent(server: MailServer, fields: Any, error: str) -> None:
    outcome = send(server, fields)
    assert (outcome.kind, outcome.error_class, outcome.error) == ("failed", "bad_text", error)
    assert server.letters == []


def test_an_empty_part_is_left_out(server: MailServer) -> None:
    message = sent(server, {"text": "{{ data.nothing }}", "html": "<p>Hi</p>"}).message
    assert message.get_content_type() == "text/html"


# Responses


def test_the_output_says_who_was_accepted(server: MailServer) -> None:
    outcome = send(server)
    assert outcome.output == {
        "status": 250,
        "body": "2.0.0 OK queued as 1",
        "message_id": f"<{KEY}.signalbox@example.com>",
        "accepted": ["sales@example.com"],
        "refused": {},
    }


def test_a_permanent_refusal_fails(server: MailServer) -> None:
    server.answers["sales@example.com"] = "550 5.1.1 no such user"
    outcome = send(server)
    assert (outcome.kind, outcome.error_class) == ("failed", "smtp_5xx")
    assert "550 (sales@example.com): 5.1.1 no such user" in str(outcome.error)


def test_a_temporary_refusal_is_retried(server: MailServer) -> None:
    server.answers["sales@example.com"] = "451 4.7.1 come back later"
    outcome = send(server)
    assert (outcome.kind, outcome.error_class) == ("retry", "smtp_4xx")


@pytest.mark.parametrize(("answer", "kind"), [("552 5.3.4 too big", "failed"), ("452 4.3.1 full", "retry")])
def test_the_message_may_be_refused_as_a_whole(server: MailServer, answer: str, kind: str) -> None:
    server.answers["DATA"] = answer
    assert send(server).kind == kind


def test_accepted_recipients_get_the_message_when_another_is_refused(server: MailServer) -> None:
    server.answers["b@example.com"] = "550 5.1.1 no such user"
    outcome = send(server, {"to": ["a@example.com", "b@example.com"]})
    assert outcome.kind == "done"
    assert outcome.output["accepted"] == ["a@example.com"]
    assert outcome.output["refused"] == {"b@example.com": "550 5.1.1 no such user"}
    assert server.letters[0].recipients == ["a@example.com"]


def test_no_recipient_gets_the_message_while_one_is_refused_temporarily(server: MailServer) -> None:
    server.answers["b@example.com"] = "450 4.2.0 greylisted"
    outcome = send(server, {"to": ["a@example.com", "b@example.com"]})
    assert outcome.kind == "retry"
    assert server.letters == []


def test_a_wrong_password_fails_and_is_not_stored(server: MailServer) -> None:
    outcome = send(server, integration={"smtp": server.fields(password="wrong-one")}.get)
    assert (outcome.kind, outcome.error_class) == ("failed", "smtp_login")
    assert "wrong-one" not in repr(outcome)


def test_a_server_without_starttls_receives_no_message(tmp_path: Path) -> None:
    with MailServer(tmp_path, security="none").running() as server:
        fields = server.fields(security="starttls", username="shop", password=PASSWORD)
        outcome = send(server, integration={"smtp": fields}.get)
    assert (outcome.kind, outcome.error_class) == ("failed", "smtp")
    assert "STARTTLS" in str(outcome.error)
    assert server.letters == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_an_untrusted_certificate_is_refused(tmp_path: Path, security: str) -> None:
    with MailServer(tmp_path, security=security).running() as server:
        outcome = send(server, integration={"smtp": server.fields(ca="")}.get)
    assert (outcome.kind, outcome.error_class) == ("retry", "tls")
    assert server.letters == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_must_be_for_the_host(tmp_path: Path, security: str) -> None:
    with MailServer(tmp_path, security=security, name="mail.example.com").running() as server:
        outcome = send(server)
    assert (outcome.kind, outcome.error_class) == ("retry", "tls")
    assert server.letters == []


def test_a_private_server_is_refused_unless_allowed(server: MailServer) -> None:
    outcome = send(server, None, "10.0.0.0/8")
    assert (outcome.kind, outcome.error_class) == ("failed", "refused_target")
    assert "ALLOWED_PRIVATE_TARGETS" in str(outcome.error)


def test_a_host_name_is_checked_by_its_address(server: MailServer) -> None:
    outcome = send(server, None, "10.0.0.0/8", integration={"smtp": server.fields(host="localhost")}.get)
    assert outcome.error_class == "refused_target"


def test_a_refused_connection_is_retried(server: MailServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    outcome = send(server, integration={"smtp": server.fields(port=str(port))}.get)
    assert (outcome.kind, outcome.error_class) == ("retry", "connection")


def test_a_server_that_does_not_respond_times_out(server: MailServer) -> None:
    with _silent() as port:
        outcome = send(server, timeout=0.3, integration={"smtp": server.fields(port=str(port))}.get)
    assert (outcome.kind, outcome.error_class) == ("retry", "timeout")


@contextmanager
def _silent() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_without_an_integration_the_error_says_how_to_create_one(server: MailServer) -> None:
    outcome = send(server, integration={}.get)
    assert (outcome.kind, outcome.error_class) == ("failed", "not_set_up")
    assert outcome.error == "the account has no smtp integration: set it up"


def test_the_message_is_stored_with_the_attempt(server: MailServer) -> None:
    outcome = send(server, {"text": "x" * 10_000})
    assert outcome.request is not None and outcome.response is not None
    assert outcome.request["url"] == f"smtp://127.0.0.1:{server.port}"
    assert outcome.request["headers"]["To"] == "sales@example.com"
    assert outcome.request["body"] == "x" * 4_096
    assert outcome.response["status"] == 250
    assert PASSWORD not in json.dumps([outcome.request, outcome.response])


# Validation


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ("hello", "email", "must be an object"),
        ({"to": None}, "email.to", "is required"),
        ({"to": "a@example.com, b@example.com"}, "email.to", "is not one e-mail address"),
        ({"to": []}, "email.to", "1 to 50"),
        ({"to": ["a@example.com", "nobody"]}, "email.to[1]", "is not one e-mail address"),
        ({"to": ["{{"]}, "email.to[0]", "is not closed"),
        ({"subject": None}, "email.subject", "is required"),
        ({"subject": " "}, "email.subject", "is empty"),
        ({"text": ""}, "email.text", "is empty"),
        ({"text": None}, "email.text", "text, html or both"),
        ({"html": 7}, "email.html", "must be text"),
        ({"from": "me"}, "email.from", "is not one e-mail address"),
        ({"cc": "{{ nope }}"}, "email.cc", "nope is unknown"),
        ({"bcc": "a@example.com"}, "email.bcc", "is unknown"),
    ],
)
def test_an_error_has_its_path(fields: Any, path: str, message: str) -> None:
    given = fields
    if isinstance(fields, dict):
        given = {name: value for name, value in {**CALL, **fields}.items() if value is not None}
    ((found_path, found_message),) = email.check(given, "email")
    assert found_path == path
    assert message in found_message


def test_valid_fields_have_no_errors() -> None:
    assert email.check(CALL, "email") == []
    assert email.check({**CALL, "to": ["{{ data.email }}", "b@example.com"], "html": "<p>"}, "email") == []
