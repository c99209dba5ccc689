"""WhatsApp's, Twilio's and SendGrid's APIs and a mail server on 127.0.0.1, as strict as their documentation.

A request that differs from the documentation gets the error of the real API, and an entry in `complaints`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.certificates import a_certificate, certificate_of
from tests.support.http_target import serving

TOKEN, PHONE_NUMBER_ID = "EAAGhush", "106540352242922"
SID, AUTH_TOKEN = "AC" + "0123456789abcdef" * 2, "hush-hush-hush"
USERNAME, PASSWORD = "shop", "open sesame"

WHATSAPP = {"access_token": TOKEN, "phone_number_id": PHONE_NUMBER_ID}
API_KEY = "SG.ngeVfQFYQlKU0ufo8x5d1A.TwL2iGABf9DHoTf09kqeF8tAmbihYzrnopKc1s5cr"
SENDGRID = {"api_key": API_KEY, "from": "Shop <shop@example.com>"}
TWILIO = {"account_sid": SID, "auth_token": AUTH_TOKEN, "from": "+15017122661"}


class Refused(Exception):
    """An error response with this status and body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(body)
        self.status, self.body = status, body


class Api(ThreadingHTTPServer, ABC):
    """An API. `accepted` are the accepted requests, `complaints` the errors in requests, `instead` the responses to send
    without a check. `headers` are sent with every response. An empty response has no body."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.accepted: list[Any] = []
        self.complaints: list[str] = []
        self.instead: list[tuple[int, dict[str, Any]]] = []
        self.headers: dict[str, str] = {}
        self.calls = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @abstractmethod
    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        """The response to a request; raises Refused."""


class _Handler(BaseHTTPRequestHandler):
    def _receive(self) -> None:
        api = self.server
        assert isinstance(api, Api)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with api.lock:
            api.calls += 1
            if api.instead:
                status, response = api.instead.pop(0)
            else:
                try:
                    status, response = api.answer(self.command, self.path, self.headers, body)
                except Refused as refused:
                    status, response = refused.status, refused.body
                    api.complaints.append(f"{status} {json.dumps(response)} to {self.path} {body!r}")
        raw = json.dumps(response).encode() if response else b""
        self.send_response(status)
        for name, value in api.headers.items():
            self.send_header(name, value)
        if raw:
            self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _receive

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running(api: Api) -> Iterator[Any]:
    """Runs the API during the block."""
    with serving(api):
        yield api


def meta_error(status: int, code: int, message: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """An error response of the Cloud API."""
    error = {"message": f"(#{code}) {message}", "type": "OAuthException", "code": code, "fbtrace_id": "Az8or2yhqkZ"}
    return status, {"error": {**error, **more}}


class WhatsAppApi(Api):
    """POST /VERSION/PHONE_NUMBER_ID/messages, template messages only."""

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            token = (headers.get("Authorization") or "").removeprefix("Bearer ")
            raise Refused(*meta_error(401, 190, f"Malformed access token {token}"))
        if method != "POST" or not re.fullmatch(rf"/v\d+\.\d+/{PHONE_NUMBER_ID}/messages", path):
            raise Refused(*meta_error(400, 100, "Unsupported request"))
        if headers.get("Content-Type") != "application/json":
            raise Refused(*meta_error(400, 100, "Invalid content type"))
        message = json.loads(body)
        if (mistake := _error_in_message(message)) is not None:
            data = {"messaging_product": "whatsapp", "details": mistake}
            raise Refused(*meta_error(400, 100, "Invalid parameter", error_data=data))
        self.accepted.append(message)
        wamid = "wamid." + base64.b64encode(f"{message['to']}-{len(self.accepted)}".encode()).decode()
        return 200, {
            "messaging_product": "whatsapp",
            "contacts": [{"input": message["to"], "wa_id": message["to"]}],
            "messages": [{"id": wamid, "message_status": "accepted"}],
        }


def _error_in_message(message: Any) -> str | None:
    if set(message) != {"messaging_product", "recipient_type", "to", "type", "template"}:
        return f"unexpected or missing fields among {sorted(message)}"
    if (message["messaging_product"], message["recipient_type"], message["type"]) != (
        "whatsapp",
        "individual",
        "template",
    ):
        return "messaging_product, recipient_type or type"
    if not re.fullmatch(r"[1-9]\d{6,14}", message["to"]):
        return "to is no number without its plus sign"
    template = message["template"]
    if not {"name", "language"} <= set(template) <= {"name", "language", "components"}:
        return f"template has {sorted(template)}"
    if not re.fullmatch(r"[a-z0-9_]{1,512}", template["name"]) or set(template["language"]) != {"code"}:
        return "name or language of the template"
    for component in template.get("components", []):
        if (mistake := _error_in_component(component)) is not None:
            return mistake
    return None


def _error_in_component(component: Any) -> str | None:
    expected = {"header": {"type", "parameters"}, "body": {"type", "parameters"}}
    expected["button"] = {"type", "sub_type", "index", "parameters"}
    if set(component) != expected.get(component.get("type")) or not component["parameters"]:
        return f"component {component}"
    if component["type"] == "button" and (
        component["sub_type"] != "url" or not re.fullmatch(r"\d", component["index"])
    ):
        return f"button {component}"
    for parameter in component["parameters"]:
        kind = parameter["type"]
        if kind == "text":
            if set(parameter) - {"parameter_name"} != {"type", "text"} or not parameter["text"]:
                return f"parameter {parameter}"
        elif set(parameter) != {"type", kind} or set(parameter[kind]) != {"link"}:
            return f"parameter {parameter}"
    return None


def twilio_error(status: int, code: int, message: str) -> tuple[int, dict[str, Any]]:
    """An error response of Twilio."""
    more = f"https://www.twilio.com/docs/errors/{code}"
    return status, {"code": code, "message": message, "more_info": more, "status": status}


class TwilioApi(Api):
    """POST /2010-04-01/Accounts/SID/Messages.json and Calls.json."""

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        login = base64.b64encode(f"{SID}:{AUTH_TOKEN}".encode()).decode()
        if headers.get("Authorization") != f"Basic {login}":
            raise Refused(*twilio_error(401, 20003, "Authenticate"))
        resource = path.removeprefix(f"/2010-04-01/Accounts/{SID}/").removesuffix(".json")
        if method != "POST" or resource not in ("Messages", "Calls") or not path.endswith(".json"):
            raise Refused(*twilio_error(404, 20404, f"The requested resource {path} was not found"))
        if headers.get("Content-Type") != "application/x-www-form-urlencoded":
            raise Refused(*twilio_error(400, 21604, "A 'To' phone number is required."))
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
        form = dict(pairs)
        if len(pairs) != len(form):
            raise Refused(*twilio_error(400, 20001, "a parameter came twice"))
        if not re.fullmatch(r"\+[1-9]\d{6,14}", form.get("To", "")):
            raise Refused(*twilio_error(400, 21211, f"The 'To' number {form.get('To')} is not a valid phone number."))
        answer = _message(form) if resource == "Messages" else _call(form)
        self.accepted.append(form)
        sid = f"{answer['sid']}{len(self.accepted):032x}"
        uri = f"/2010-04-01/Accounts/{SID}/{resource}/{sid}.json"
        whose = {"sid": sid, "account_sid": SID, "uri": uri, "api_version": "2010-04-01", "direction": "outbound-api"}
        return 201, {**answer, **whose}


def _message(form: dict[str, str]) -> dict[str, Any]:
    if set(form) not in ({"To", "From", "Body"}, {"To", "MessagingServiceSid", "Body"}):
        raise Refused(*twilio_error(400, 21603, f"unexpected or missing parameters among {sorted(form)}"))
    if not 1 <= len(form["Body"]) <= 1600:
        raise Refused(*twilio_error(400, 21617, "The concatenated message body exceeds the 1600 character limit"))
    return {
        "sid": "SM",
        "to": form["To"],
        "from": form.get("From"),
        "messaging_service_sid": form.get("MessagingServiceSid"),
        "body": form["Body"],
        "status": "accepted" if "MessagingServiceSid" in form else "queued",
        "error_code": None,
        "error_message": None,
        "num_segments": "1",
    }


def _call(form: dict[str, str]) -> dict[str, Any]:
    if set(form) not in ({"To", "From", "Url"}, {"To", "From", "Twiml"}):
        raise Refused(*twilio_error(400, 21200, f"unexpected or missing parameters among {sorted(form)}"))
    if not re.fullmatch(r"\+[1-9]\d{6,14}", form["From"]):
        raise Refused(*twilio_error(400, 21212, f"The 'From' number {form['From']} is not a valid phone number."))
    if "Url" in form and not re.fullmatch(r"https?://[^\s/]+\S*", form["Url"]):
        raise Refused(*twilio_error(400, 21205, f"Url is not a valid url: {form['Url']}"))
    if len(form.get("Twiml", "")) > 4_000:
        raise Refused(*twilio_error(400, 32018, "Twiml size exceeded maximum allowed value of 4000 characters"))
    return {
        "sid": "CA",
        "to": form["To"],
        "to_formatted": form["To"],
        "from": form["From"],
        "status": "queued",
        "duration": None,
        "start_time": None,
        "end_time": None,
        "answered_by": None,
        "parent_call_sid": None,
        "queue_time": "0",
    }


def sendgrid_error(status: int, *messages: str, field: str | None = None) -> tuple[int, dict[str, Any]]:
    """An error response of SendGrid."""
    return status, {"errors": [{"message": message, "field": field, "help": None} for message in messages]}


class SendGridApi(Api):
    """POST /v3/mail/send, without templates and attachments."""

    def __init__(self) -> None:
        super().__init__()
        self.headers = {"X-Message-Id": "LrbnHvJfRBuDdVwzBQBZ0A"}

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        if headers.get("Authorization") != f"Bearer {API_KEY}":
            token = (headers.get("Authorization") or "").removeprefix("Bearer ")
            message = f"The provided authorization grant {token} is invalid, expired, or revoked"
            raise Refused(*sendgrid_error(401, message))
        if path != "/v3/mail/send":
            raise Refused(*sendgrid_error(404, "not found"))
        if method != "POST":
            raise Refused(*sendgrid_error(405, "method not allowed"))
        if headers.get("Accept") != "application/json":
            raise Refused(*sendgrid_error(406, "missing Accept header"))
        if headers.get("Content-Type") != "application/json":
            raise Refused(*sendgrid_error(415, "unsupported media type"))
        message = json.loads(body)
        if (mistake := _error_in_mail(message)) is not None:
            raise Refused(*sendgrid_error(400, f"mistake in {mistake}", field=mistake))
        self.accepted.append(message)
        return 202, {}


def _error_in_mail(message: Any) -> str | None:
    """The invalid field, or None."""
    if set(message) != {"personalizations", "from", "subject", "content", "custom_args"}:
        return f"{sorted(message)}"
    (personalization,) = message["personalizations"]
    addresses = [one["email"].lower() for one in personalization["to"]]
    if set(personalization) != {"to"} or not 1 <= len(addresses) <= 1_000 or len(set(addresses)) != len(addresses):
        return "personalizations"
    for one in (*personalization["to"], message["from"]):
        if not {"email"} <= set(one) <= {"email", "name"} or one.get("name") == "" or "@" not in one["email"]:
            return "personalizations.0.to" if one is not message["from"] else "from"
    if not isinstance(message["subject"], str) or not message["subject"]:
        return "subject"
    kinds = [part["type"] for part in message["content"]]
    if kinds not in (["text/plain"], ["text/html"], ["text/plain", "text/html"]):
        return "content"
    if any(set(part) != {"type", "value"} or not part["value"] for part in message["content"]):
        return "content.0.value"
    arguments = message["custom_args"]
    if not all(isinstance(value, str) for value in arguments.values()) or len(json.dumps(arguments)) >= 10_000:
        return "custom_args"
    return None


@dataclass(frozen=True)
class ReceivedMail:
    """A received message."""

    sender: str
    recipients: list[str]
    raw: bytes
    over_tls: bool
    login: str | None

    @property
    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.raw, policy=default)
        assert isinstance(parsed, EmailMessage)
        return parsed


class MailServer:
    """A mail server (aiosmtpd) in its own thread. `answers` replaces the responses to RCPT (by recipient) and to the message
    (by the key DATA)."""

    def __init__(
        self, folder: Path, *, security: str = "starttls", name: str = "127.0.0.1", login: bool = True
    ) -> None:
        self.letters: list[ReceivedMail] = []
        self.answers: dict[str, str] = {}
        self.port = 0
        self._security, self._login = security, login and security != "none"
        self._file = a_certificate(folder, name)
        self.certificate = certificate_of(self._file)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self._file)
        self._loop = asyncio.new_event_loop()

    def fields(self, **changes: str) -> dict[str, str]:
        """The fields of an integration with this server; an empty text removes a field."""
        fields = {"host": "127.0.0.1", "port": str(self.port), "from": "Shop <shop@example.com>"}
        fields |= {"security": self._security, "ca": self.certificate}
        if self._login:
            fields |= {"username": USERNAME, "password": PASSWORD}
        return {name: value for name, value in {**fields, **changes}.items() if value}

    @contextmanager
    def running(self) -> Iterator[MailServer]:
        """Runs during the block."""
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(
                self._protocol, "127.0.0.1", 0, ssl=self._context if self._security == "tls" else None
            )
        )
        self.port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._close(server), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()
            asyncio.set_event_loop(None)

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0.05)

    def _protocol(self) -> SMTP:
        starttls = self._security == "starttls"
        return SMTP(
            self,
            hostname="mail.example.com",
            tls_context=self._context if starttls else None,
            require_starttls=starttls,
            # aiosmtpd does not know that the whole connection is TLS, and would warn.
            auth_required=self._login and starttls,
            auth_require_tls=starttls,
            authenticator=self._authenticate,
            loop=self._loop,
        )

    @staticmethod
    def _authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (
            USERNAME.encode(),
            PASSWORD.encode(),
        )
        return AuthResult(success=right, handled=False, auth_data=USERNAME if right else None)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        if "DATA" in self.answers:
            return self.answers["DATA"]
        assert isinstance(envelope.content, bytes)
        self.letters.append(
            ReceivedMail(
                str(envelope.mail_from),
                list(envelope.rcpt_tos),
                envelope.content,
                session.ssl is not None or self._security == "tls",
                session.auth_data,
            )
        )
        return f"250 2.0.0 OK queued as {len(self.letters)}"
