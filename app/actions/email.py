"""The action `email`: a message by the account's SMTP server.

Fields: `to` (an address, or a list of them), `subject`, `text` or `html` or both, and `from`, `cc`, `reply_to`. Output: the
server's response as `status` and `body`, the `message_id`, and the `accepted` and `refused` recipients.

By RFC 5321 (SMTP), 3207 (STARTTLS), 4954 (AUTH) and 5322 (messages). A 5xx response is permanent, a 4xx response is retried.
The Message-ID contains the idempotency key, so a message that is sent again after a lost response has the same one. No field
can add a header or a recipient: each text is one address, each header one line.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.message import EmailMessage
from email.policy import SMTP
from functools import lru_cache
from typing import Any

import aiosmtplib

from app.actions.action_context import ActionContext, ActionError
from app.actions.field_checks import FieldErrors
from app.actions.http_call import MAX_STORED_RESPONSE, error_detail
from app.actions.http_request import MAX_STORED_BODY
from app.actions.integration_kinds import smtp_port
from app.actions.mail_fields import (
    ADDRESSES,
    MAIL_FIELDS,
    MAX_RECIPIENTS,
    check_mail,
    mail_schema,
    render_address,
    render_addresses,
    render_parts,
    render_subject,
)
from app.core.durations import write_duration
from app.core.exact_json import replace_unstorable
from app.core.models import Outcome

FIELDS = (*MAIL_FIELDS, "cc", "reply_to")
SCHEMA = mail_schema(
    "send an e-mail by the account's SMTP server",
    cc={**ADDRESSES, "description": "recipients of a copy"},
    reply_to={**ADDRESSES, "description": "the address for replies"},
)
# Seconds to wait for the response to QUIT.
_QUIT_TIMEOUT = 1.0
# 7-bit text, which every server accepts.
_POLICY = SMTP.clone(cte_type="7bit")


def check(fields: Any, path: str) -> FieldErrors:
    """Errors of addresses, subject and text."""
    return check_mail(fields, path, "email", FIELDS)


@dataclass(frozen=True, slots=True)
class _Envelope:
    """A message to send, with the sender and the recipients for the SMTP commands."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage
    url: str

    def redacted(self) -> dict[str, Any]:
        """What is stored with the attempt, truncated."""
        headers = {name: replace_unstorable(str(value)) for name, value in self.message.items()}
        body = self.message.get_body(("plain", "html"))
        text = replace_unstorable(body.get_content())[:MAX_STORED_BODY] if body is not None else ""
        return {"method": "SEND", "url": self.url, "headers": headers, "body": text}


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Hand the e-mail to the account's SMTP server."""
    integration = context.credentials("smtp")
    envelope = await context.compose(_compose, fields, context, integration)
    host = f"{integration['host']}:{smtp_port(integration)}"
    started_at = time.perf_counter()
    target = f"email from {envelope.sender}"
    async with context.circuit_breakers.permit(context.run.account_id, host, target) as permit:
        outcome = await _send(envelope, context, integration, host)
        permit.succeeded = _is_good_answer(outcome)
        permit.is_connected = outcome.response is not None or outcome.error_class not in ("connection", "tls")
    duration = round((time.perf_counter() - started_at) * 1000)
    response = None if outcome.response is None else {**outcome.response, "ms": duration}
    return replace(outcome, request=envelope.redacted(), response=response, target=target)


def preview(fields: Any, context: ActionContext) -> Outcome:
    """The message, which is not sent; as text, and as HTML if it has both."""
    envelope = _compose(fields, context, context.credentials("smtp"))
    html = envelope.message.get_body(("html",)) if envelope.message.is_multipart() else None
    more = {} if html is None else {"html": replace_unstorable(html.get_content())[:MAX_STORED_BODY]}
    output = {"status": 250, "body": "", "message_id": str(envelope.message["Message-ID"])}
    return Outcome("done", output=output, request={**envelope.redacted(), **more})


def _is_good_answer(outcome: Outcome) -> bool | None:
    if outcome.response is not None:
        return bool(outcome.response["status"] != 421)
    return False if outcome.kind == "retry" else None


# Composing


def _compose(fields: Mapping[str, Any], context: ActionContext, integration: Mapping[str, str]) -> _Envelope:
    """The message; raises ActionError and TemplateError."""
    message = EmailMessage(policy=_POLICY)
    sender = render_address(fields.get("from", integration["from"]), "from", context)
    message["From"] = sender
    to = render_addresses(fields["to"], "to", context)
    message["To"] = to
    cc = render_addresses(fields.get("cc", []), "cc", context)
    if cc:
        message["Cc"] = cc
    if "reply_to" in fields:
        message["Reply-To"] = render_addresses(fields["reply_to"], "reply_to", context)
    message["Subject"] = render_subject(fields["subject"], context)
    message["Date"] = context.now
    message["Message-ID"] = f"<{context.idempotency_key}.signalbox@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    _set_content(message, fields, context)
    recipients = tuple(dict.fromkeys(address.addr_spec for address in (*to, *cc)))
    if len(recipients) > MAX_RECIPIENTS:
        raise ActionError("bad_address", f"{len(recipients)} recipients; {MAX_RECIPIENTS} are allowed")
    return _Envelope(sender.addr_spec, recipients, message, f"smtp://{integration['host']}:{smtp_port(integration)}")


def _set_content(message: EmailMessage, fields: Mapping[str, Any], context: ActionContext) -> None:
    (kind, text), *alternatives = render_parts(fields, context)
    message.set_content(text, subtype=kind)
    for kind, text in alternatives:
        message.add_alternative(text, subtype=kind)


# Sending


async def _send(envelope: _Envelope, context: ActionContext, integration: Mapping[str, str], host: str) -> Outcome:
    from app.actions.address_guard import RefusedTarget

    connection = _Connection()
    try:
        async with asyncio.timeout(context.timeout):
            client = await connection.open(context, integration)
            return await _deliver(client, envelope)
    except RefusedTarget as exc:
        return Outcome("failed", error=str(exc), error_class="refused_target")
    except aiosmtplib.SMTPResponseException as exc:
        return _error_outcome(exc, host)
    # aiosmtplib's time-outs are subclasses.
    except TimeoutError:
        error = f"{host} did not accept the message within {write_duration(context.timeout)}"
        return Outcome("retry", error=error, error_class="timeout")
    except (aiosmtplib.SMTPConnectError, OSError) as exc:
        cause = exc.__cause__ or exc
        if isinstance(cause, ssl.SSLError):
            return Outcome("retry", error=f"TLS with {host} failed: {error_detail(cause)}", error_class="tls")
        return Outcome("retry", error=f"cannot connect to {host}: {error_detail(cause)}", error_class="connection")
    except aiosmtplib.SMTPException as exc:
        return Outcome("failed", error=f"{host}: {str(exc)[:200]}", error_class="smtp")
    finally:
        await connection.close()


class _Connection:
    """A connection to a mail server."""

    def __init__(self) -> None:
        self._client: aiosmtplib.SMTP | None = None
        self._transports: list[asyncio.BaseTransport | None] = []

    async def open(self, context: ActionContext, integration: Mapping[str, str]) -> aiosmtplib.SMTP:
        """Connect, by the rules of `connect_socket`; secure the connection and log in."""
        from app.actions.http_session import connect_socket

        security, port = integration.get("security", "starttls"), smtp_port(integration)
        tls_context = None if security == "none" else await asyncio.to_thread(_tls_context, integration.get("ca"))
        self._client = client = aiosmtplib.SMTP(
            hostname=integration["host"],
            sock=await connect_socket(context.session, integration["host"], port),
            # Avoids a look-up of the machine's own name, which may be slow.
            local_hostname="localhost",
            timeout=context.timeout,
            use_tls=security == "tls",
            start_tls=False,
            tls_context=tls_context,
        )
        await client.connect()
        self._transports.append(client.transport)
        if security == "starttls":
            await client.starttls()
            self._transports.append(client.transport)
        if "username" in integration:
            await client.login(integration["username"], integration["password"])
        return client

    async def close(self) -> None:
        """Send QUIT if connected, and close without waiting for the server: the message has been answered."""
        try:
            if self._client is not None and self._client.is_connected:
                await self._client.quit(timeout=_QUIT_TIMEOUT)
        except (aiosmtplib.SMTPException, OSError, TimeoutError):
            pass
        finally:
            if self._client is not None:
                self._client.close()
            for transport in self._transports:
                if isinstance(transport, asyncio.WriteTransport):
                    transport.abort()


# Reading the certificates takes 50 ms.
@lru_cache(maxsize=64)
def _tls_context(certificates: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if certificates is not None:
        context.load_verify_locations(cadata=certificates)
    return context


async def _deliver(client: aiosmtplib.SMTP, envelope: _Envelope) -> Outcome:
    """Send all recipients, and the message for those that are accepted."""
    await client.mail(envelope.sender, encoding="ascii")
    accepted, refused = await _send_recipients(client, envelope)
    response = await client.data(envelope.message.as_bytes())
    return _success(envelope, accepted, refused, response)


async def _send_recipients(client: aiosmtplib.SMTP, envelope: _Envelope) -> tuple[list[str], dict[str, str]]:
    """The accepted recipients, and the permanently refused ones with the reason. Raises SMTPRecipientRefused when one is
    refused temporarily, or all are refused; no message has been sent then."""
    accepted: list[str] = []
    refused: dict[str, str] = {}
    last: aiosmtplib.SMTPRecipientRefused | None = None
    for recipient in envelope.recipients:
        try:
            await client.rcpt(recipient, encoding="ascii")
            accepted.append(recipient)
        except aiosmtplib.SMTPRecipientRefused as exc:
            if not 500 <= exc.code < 600:
                raise
            last = exc
            refused[recipient] = f"{exc.code} {exc.message}"[:300]
    if last is not None and not accepted:
        raise last
    return accepted, refused


def _success(
    envelope: _Envelope, accepted: list[str], refused: dict[str, str], received: aiosmtplib.SMTPResponse
) -> Outcome:
    body = replace_unstorable(received.message)[:MAX_STORED_RESPONSE]
    response: dict[str, Any] = {"status": received.code, "body": body, **({"refused": refused} if refused else {})}
    output = {
        "status": received.code,
        "body": body,
        "message_id": str(envelope.message["Message-ID"]),
        "accepted": accepted,
        "refused": refused,
    }
    return Outcome("done", output=output, response=response)


def _error_outcome(exc: aiosmtplib.SMTPResponseException, host: str) -> Outcome:
    """The outcome of an error response."""
    body = replace_unstorable(exc.message)[:MAX_STORED_RESPONSE]
    recipient = f" ({exc.recipient})" if isinstance(exc, aiosmtplib.SMTPRecipientRefused) else ""
    error = f"{host} answered {exc.code}{recipient}: {body[:300]}"
    response = {"status": exc.code, "body": body}
    if not 500 <= exc.code < 600:
        return Outcome("retry", error=error, error_class="smtp_4xx", response=response)
    if isinstance(exc, aiosmtplib.SMTPAuthenticationError):
        return Outcome("failed", error=f"login failed: {error}", error_class="smtp_login", response=response)
    return Outcome("failed", error=error, error_class="smtp_5xx", response=response)
