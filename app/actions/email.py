"""The action `email`: a message by the account's SMTP server.

Fields: `to` (an address, or a list of them), `subject`, `text` or `html` or both, and `from`, `cc`, `reply_to`. Goes out
as an Outcome whose output is the server's answer as `status` and `body`, the `message_id`, and who was `accepted` and
who `refused`.

By RFC 5321 (SMTP), 3207 (STARTTLS), 4954 (AUTH) and 5322 (messages). A refusal of the 5xx kind is for good, one of the
4xx kind is not. The Message-ID is made of the idempotency key: a message that is sent again after its answer was lost
has the same one. No field can add a header or a recipient: each text is one address, each header one line.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import aiosmtplib

from app.actions.context import ActionContext, ActionError
from app.actions.field_checks import Mistakes, check_addresses, check_names, check_text, text_schema
from app.actions.http_call import KEPT_OF_ANSWER, detail
from app.actions.http_request import KEPT, sendable
from app.actions.integration_kinds import MASK, smtp_port
from app.actions.templates.render import Text, render
from app.core.addresses import read_email
from app.core.durations import write_duration
from app.core.models import Outcome
from app.core.unstorable import replace_unstorable

FIELDS = ("to", "subject", "text", "html", "from", "cc", "reply_to")
MOST_RECIPIENTS = 50
_ADDRESS = text_schema("one address")
_ADDRESSES: dict[str, Any] = {
    "anyOf": [_ADDRESS, {"type": "array", "items": _ADDRESS, "minItems": 1, "maxItems": MOST_RECIPIENTS}]
}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "to": {**_ADDRESSES, "description": "an address, or a list of them; templates"},
        "subject": text_schema("the subject; a template"),
        "text": text_schema("what to write, as plain text; a template"),
        "html": text_schema("what to write, as HTML; a template"),
        "from": text_schema("the sender, where it is not the integration's"),
        "cc": {**_ADDRESSES, "description": "who gets a copy"},
        "reply_to": {**_ADDRESSES, "description": "where answers go"},
    },
    "required": ["to", "subject"],
    "anyOf": [{"required": ["text"]}, {"required": ["html"]}],
    "additionalProperties": False,
    "description": "send an e-mail by the account's SMTP server",
}
_LONGEST_SUBJECT = 500
# Seconds to wait for the answer to QUIT.
_GOODBYE = 1.0
# Seven bits: every server takes these.
_WIRE = SMTP.clone(cte_type="7bit")


def check(fields: Any, path: str) -> Mistakes:
    """All that is wrong with the fields."""
    if not isinstance(fields, Mapping):
        return [(path, "has to be an object such as {to: sales@example.com, subject: Hello, text: Hello}")]
    errors = check_names(fields, "email", FIELDS, path)
    errors += check_addresses(fields.get("to"), f"{path}.to", MOST_RECIPIENTS)
    errors += check_text(fields.get("subject"), f"{path}.subject", "the subject")
    for name in ("cc", "reply_to"):
        if name in fields:
            errors += check_addresses(fields[name], f"{path}.{name}", MOST_RECIPIENTS)
    if "from" in fields:
        errors += check_text(fields["from"], f"{path}.from", "the address of the sender", read=read_email)
    if "text" not in fields and "html" not in fields:
        errors.append((f"{path}.text", "is missing: what to write (text, html or both)"))
    for name in ("text", "html"):
        if name in fields:
            errors += check_text(fields[name], f"{path}.{name}", "what to write")
    return errors


@dataclass(frozen=True, slots=True)
class _Letter:
    """A message on its way: from whom and to whom as the server is told, and as what."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage
    url: str

    def kept(self) -> dict[str, Any]:
        """What is kept with the attempt, cut."""
        headers = {name: replace_unstorable(str(value)) for name, value in self.message.items()}
        body = self.message.get_body(("plain", "html"))
        text = replace_unstorable(body.get_content())[:KEPT] if body is not None else ""
        return {"method": "SEND", "url": self.url, "headers": headers, "body": text}


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Send the message once."""
    account = context.credentials("smtp")
    letter = _write(fields, context, account)
    place = f"{account['host']}:{smtp_port(account)}"
    began = time.perf_counter()
    async with context.circuit_breakers.permit(context.run.account_id, place) as permit:
        outcome = await _sent(letter, context, account, place)
        permit.succeeded = _has_answered(outcome)
    spent = round((time.perf_counter() - began) * 1000)
    answer = None if outcome.response is None else {**outcome.response, "ms": spent}
    return _without_password(replace(outcome, request=letter.kept(), response=answer), account.get("password"))


def _has_answered(outcome: Outcome) -> bool | None:
    if outcome.response is not None:
        return bool(outcome.response["status"] != 421)
    return False if outcome.kind == "retry" else None


def _without_password(outcome: Outcome, password: str | None) -> Outcome:
    """A server may repeat in its complaint what it was told."""
    if not password or outcome.error is None:
        return outcome
    answer = outcome.response and {**outcome.response, "body": outcome.response["body"].replace(password, MASK)}
    return replace(outcome, error=outcome.error.replace(password, MASK), response=answer)


# Writing


def _write(fields: Mapping[str, Any], context: ActionContext, account: Mapping[str, str]) -> _Letter:
    """The message; raises ActionError and TemplateError."""
    message = EmailMessage(policy=_WIRE)
    sender = _address(fields.get("from", account["from"]), "from", context)
    message["From"] = sender
    to = _addresses(fields["to"], "to", context)
    message["To"] = to
    cc = _addresses(fields.get("cc", []), "cc", context)
    if cc:
        message["Cc"] = cc
    if "reply_to" in fields:
        message["Reply-To"] = _addresses(fields["reply_to"], "reply_to", context)
    message["Subject"] = _line(render(fields["subject"], context.names))
    message["Date"] = context.now
    message["Message-ID"] = f"<{context.idempotency_key}.signalbox@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    _fill(message, fields, context)
    recipients = tuple(dict.fromkeys(one.addr_spec for one in (*to, *cc)))
    if len(recipients) > MOST_RECIPIENTS:
        raise ActionError("bad_address", f"{len(recipients)} recipients; {MOST_RECIPIENTS} are allowed")
    return _Letter(sender.addr_spec, recipients, message, f"smtp://{account['host']}:{smtp_port(account)}")


def _fill(message: EmailMessage, fields: Mapping[str, Any], context: ActionContext) -> None:
    texts = [
        (kind, sendable(render(fields[name], context.names, as_html=name == "html")))
        for name, kind in (("text", "plain"), ("html", "html"))
        if name in fields
    ]
    if not any(text.strip() for _, text in texts):
        raise ActionError("bad_text", "the message is empty")
    (kind, text), *further = texts
    message.set_content(text, subtype=kind)
    for kind, text in further:
        message.add_alternative(text, subtype=kind)


def _addresses(value: Any, name: str, context: ActionContext) -> list[Address]:
    if not isinstance(value, list):
        return [_address(value, name, context)]
    return [_address(member, f"{name}[{index}]", context) for index, member in enumerate(value)]


def _address(template: Text, name: str, context: ActionContext) -> Address:
    try:
        return read_email(render(template, context.names))
    except ValueError as exc:
        raise ActionError("bad_address", f"{name}: {exc}") from None


def _line(text: str) -> str:
    """One line of printable characters."""
    shown = "".join(letter if letter.isprintable() else " " for letter in sendable(text))
    return " ".join(shown.split())[:_LONGEST_SUBJECT]


# Sending


async def _sent(letter: _Letter, context: ActionContext, account: Mapping[str, str], place: str) -> Outcome:
    from app.actions.http_session import RefusedTarget

    connection = _Connection()
    try:
        async with asyncio.timeout(context.timeout):
            client = await connection.open(context, account)
            return await _hand_over(client, letter)
    except RefusedTarget as exc:
        return Outcome("failed", error=str(exc), error_class="refused_target")
    except aiosmtplib.SMTPResponseException as answer:
        return _complaint(answer, place)
    # aiosmtplib's are time-outs as well.
    except TimeoutError:
        told = f"{place} did not take the message within {write_duration(context.timeout)}"
        return Outcome("retry", error=told, error_class="timeout")
    except (aiosmtplib.SMTPConnectError, OSError) as exc:
        cause = exc.__cause__ or exc
        if isinstance(cause, ssl.SSLError):
            return Outcome("retry", error=f"no trust in {place}: {detail(cause)}", error_class="tls")
        return Outcome("retry", error=f"no connection to {place}: {detail(cause)}", error_class="connection")
    except aiosmtplib.SMTPException as exc:
        return Outcome("failed", error=f"{place}: {str(exc)[:200]}", error_class="smtp")
    finally:
        await connection.end()


class _Connection:
    """A connection to a mail server, from the first packet to the last."""

    def __init__(self) -> None:
        self._client: aiosmtplib.SMTP | None = None
        self._transports: list[asyncio.BaseTransport | None] = []

    async def open(self, context: ActionContext, account: Mapping[str, str]) -> aiosmtplib.SMTP:
        """Connect to an address that may be dialled, secure the connection, and log in."""
        from app.actions.http_session import dial

        security, port = account.get("security", "starttls"), smtp_port(account)
        trust = None if security == "none" else await asyncio.to_thread(_trust, account.get("ca"))
        self._client = client = aiosmtplib.SMTP(
            hostname=account["host"],
            sock=await dial(context.session, account["host"], port),
            # Not asked of the machine's name servers, which may take their time.
            local_hostname="localhost",
            timeout=context.timeout,
            use_tls=security == "tls",
            start_tls=False,
            tls_context=trust,
        )
        await client.connect()
        self._transports.append(client.transport)
        if security == "starttls":
            await client.starttls()
            self._transports.append(client.transport)
        if "username" in account:
            await client.login(account["username"], account["password"])
        return client

    async def end(self) -> None:
        """Say goodbye where there is somebody to say it to, and close in any case, without waiting for the other side:
        what had to be said has been answered."""
        try:
            if self._client is not None and self._client.is_connected:
                await self._client.quit(timeout=_GOODBYE)
        except (aiosmtplib.SMTPException, OSError, TimeoutError):
            pass
        finally:
            if self._client is not None:
                self._client.close()
            for transport in self._transports:
                if isinstance(transport, asyncio.WriteTransport):
                    transport.abort()


def _trust(certificates: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if certificates is not None:
        context.load_verify_locations(cadata=certificates)
    return context


async def _hand_over(client: aiosmtplib.SMTP, letter: _Letter) -> Outcome:
    """Name all recipients, and hand the message over for those who are accepted."""
    await client.mail(letter.sender, encoding="ascii")
    accepted, refused = await _name_recipients(client, letter)
    answer = await client.data(letter.message.as_bytes())
    return _handed_over(letter, accepted, refused, answer)


async def _name_recipients(client: aiosmtplib.SMTP, letter: _Letter) -> tuple[list[str], dict[str, str]]:
    """Who is accepted, and who is refused for good, and why. Nothing is sent yet: where one is refused for now only, or
    none is left, that is raised."""
    accepted: list[str] = []
    refused: dict[str, str] = {}
    last: aiosmtplib.SMTPRecipientRefused | None = None
    for recipient in letter.recipients:
        try:
            await client.rcpt(recipient, encoding="ascii")
            accepted.append(recipient)
        except aiosmtplib.SMTPRecipientRefused as answer:
            if not 500 <= answer.code < 600:
                raise
            last = answer
            refused[recipient] = f"{answer.code} {answer.message}"[:300]
    if last is not None and not accepted:
        raise last
    return accepted, refused


def _handed_over(
    letter: _Letter, accepted: list[str], refused: dict[str, str], answer: aiosmtplib.SMTPResponse
) -> Outcome:
    said = replace_unstorable(answer.message)[:KEPT_OF_ANSWER]
    response: dict[str, Any] = {"status": answer.code, "body": said, **({"refused": refused} if refused else {})}
    output = {
        "status": answer.code,
        "body": said,
        "message_id": str(letter.message["Message-ID"]),
        "accepted": accepted,
        "refused": refused,
    }
    return Outcome("done", output=output, response=response)


def _complaint(answer: aiosmtplib.SMTPResponseException, place: str) -> Outcome:
    """What an answer that is no success means."""
    said = replace_unstorable(answer.message)[:KEPT_OF_ANSWER]
    about = f" ({answer.recipient})" if isinstance(answer, aiosmtplib.SMTPRecipientRefused) else ""
    error = f"{place} answered {answer.code}{about}: {said[:300]}"
    response = {"status": answer.code, "body": said}
    if not 500 <= answer.code < 600:
        return Outcome("retry", error=error, error_class="smtp_4xx", response=response)
    if isinstance(answer, aiosmtplib.SMTPAuthenticationError):
        return Outcome("failed", error=f"no log-in: {error}", error_class="smtp_login", response=response)
    return Outcome("failed", error=error, error_class="smtp_5xx", response=response)
