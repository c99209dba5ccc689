"""Providers of webhooks: how each signs a delivery, and what its own library says about one, where it has a library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import razorpay
import yaml
from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.v1.event import CloudEvent
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from gidgethub.sansio import validate_event
from pywa.utils import webhook_updates_validator
from sendgrid.helpers.eventwebhook import EventWebhook
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook
from stripe import WebhookSignature
from svix.webhooks import Webhook as SvixWebhook
from twilio.request_validator import RequestValidator

from app.ingest.sources.delivery_values import DeliveryRequest
from app.ingest.sources.verifier import Verdict, verify
from app.workflows.sources.schemes import Scheme, read_scheme

PRESETS = Path(__file__).resolve().parents[2] / "app" / "workflows" / "sources" / "presets"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
# The body of the examples: white space and characters that another JSON text would not have.
BODY = '{"event": "order.paid",  "amount": 10.50, "name": "Zoë"}'.encode()
# For SendGrid, whose secret is the private key of the sender and the public key of the receiver.
_PRIVATE_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_KEY = base64.b64encode(
    _PRIVATE_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()


def a_delivery(
    body: bytes = BODY,
    *,
    headers: Mapping[str, str] | None = None,
    url: str = "https://events.example.com/hooks/abc",
    method: str = "POST",
    content_type: str = JSON,
    unpacked: bytes | None = None,
) -> DeliveryRequest:
    """A delivery without a signature, unless `headers` has one."""
    fields = {"content-type": content_type, **(headers or {})}
    return DeliveryRequest(method, url, fields, body, body if unpacked is None else unpacked)


@dataclass(frozen=True)
class WebhookSender:
    """A provider.

    `sign(delivery, secret, at)`: the delivery as the provider sends it at a time. `section`: its `verify` section. `library`:
    what the provider's library says about a delivery; it raises or returns False for a wrong one.
    """

    name: str
    section: Mapping[str, Any]
    sign: Callable[[DeliveryRequest, str, datetime], DeliveryRequest]
    library: Callable[[DeliveryRequest, str], Any] | None = None
    secret: str = "a secret of 1 provider"
    delivery: DeliveryRequest = field(default_factory=a_delivery)

    def send(self, at: datetime, **changes: Any) -> DeliveryRequest:
        """A signed delivery."""
        return self.sign(replace(self.delivery, **changes), self.secret, at)

    def is_accepted_by_library(self, delivery: DeliveryRequest, secret: str | None = None) -> bool:
        """What the library says: it returns False or raises for a wrong delivery."""
        assert self.library is not None
        try:
            return self.library(delivery, self.secret if secret is None else secret) is not False
        except Exception:
            return False


@cache
def preset_sections(name: str) -> Mapping[str, Any]:
    """The sections of a preset."""
    return dict(yaml.safe_load((PRESETS / f"{name}.yaml").read_text("utf-8")))


def with_headers(delivery: DeliveryRequest, **headers: str) -> DeliveryRequest:
    """A delivery with further headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return replace(delivery, headers={**delivery.headers, **named})


def mac(secret: str | bytes, text: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.new(secret.encode() if isinstance(secret, str) else secret, text, algorithm).digest()


def base64_mac(secret: str, text: bytes, algorithm: str = "sha256") -> str:
    return base64.b64encode(mac(secret, text, algorithm)).decode()


def _seconds(at: datetime) -> str:
    return str(int(at.timestamp()))


def _in_header(name: str, write: Callable[[str, bytes], str]) -> Callable[..., DeliveryRequest]:
    """A signature of the raw body in a header."""
    return lambda delivery, secret, at: with_headers(delivery, **{name: write(secret, delivery.raw_body)})


def _hex(prefix: str = "", algorithm: str = "sha256") -> Callable[[str, bytes], str]:
    return lambda secret, text: prefix + mac(secret, text, algorithm).hex()


def _timestamped(header: str, template: str, before: str) -> Callable[..., DeliveryRequest]:
    def sign(delivery: DeliveryRequest, secret: str, at: datetime) -> DeliveryRequest:
        text = before.format(_seconds(at)).encode() + delivery.raw_body
        return with_headers(delivery, **{header: template.format(_seconds(at), mac(secret, text).hex())})

    return sign


def _sign_standard(names: str) -> Callable[..., DeliveryRequest]:
    def sign(delivery: DeliveryRequest, secret: str, at: datetime) -> DeliveryRequest:
        signature = Webhook(secret).sign("msg_1", at, delivery.raw_body.decode())
        values = {"id": "msg_1", "timestamp": _seconds(at), "signature": signature}
        return with_headers(delivery, **{f"{names}_{name}": value for name, value in values.items()})

    return sign


def _sign_stripe(delivery: DeliveryRequest, secret: str, at: datetime) -> DeliveryRequest:
    text = delivery.raw_body.decode()
    header = WebhookSignature.generate_signature_header(text, secret, timestamp=int(at.timestamp()))
    return with_headers(delivery, stripe_signature=header)


def _sign_slack(delivery: DeliveryRequest, secret: str, at: datetime) -> DeliveryRequest:
    signature = SignatureVerifier(secret).generate_signature(timestamp=_seconds(at), body=delivery.raw_body)
    return with_headers(delivery, x_slack_request_timestamp=_seconds(at), x_slack_signature=str(signature))


def _verify_slack(delivery: DeliveryRequest, secret: str) -> bool:
    # Its own check of the time would need its own clock.
    headers = delivery.headers
    signed = SignatureVerifier(secret).generate_signature(
        timestamp=headers["x-slack-request-timestamp"], body=delivery.raw_body
    )
    return signed == headers["x-slack-signature"]


def _sign_twilio(delivery: DeliveryRequest, secret: str, at: datetime) -> DeliveryRequest:
    fields = dict(parse_qsl(delivery.body.decode(), keep_blank_values=True)) if _is_form(delivery) else {}
    return with_headers(delivery, x_twilio_signature=RequestValidator(secret).compute_signature(delivery.url, fields))


def _verify_twilio(delivery: DeliveryRequest, secret: str) -> bool:
    fields: Any = delivery.body.decode()
    if _is_form(delivery):
        fields = dict(parse_qsl(fields, keep_blank_values=True))
    return RequestValidator(secret).validate(delivery.url, fields, delivery.headers["x-twilio-signature"])


def _is_form(delivery: DeliveryRequest) -> bool:
    return delivery.headers["content-type"] == FORM


def _sign_sendgrid(delivery: DeliveryRequest, secret: str, at: datetime) -> DeliveryRequest:
    signature = _PRIVATE_KEY.sign(_seconds(at).encode() + delivery.raw_body, ec.ECDSA(hashes.SHA256()))
    return with_headers(
        delivery,
        x_twilio_email_event_webhook_signature=base64.b64encode(signature).decode(),
        x_twilio_email_event_webhook_timestamp=_seconds(at),
    )


def _verify_sendgrid(delivery: DeliveryRequest, secret: str) -> bool:
    name = "x-twilio-email-event-webhook"
    signature, timestamp = (delivery.headers[f"{name}-{part}"] for part in ("signature", "timestamp"))
    return bool(EventWebhook(secret).verify_signature(delivery.raw_body.decode(), signature, timestamp))


def _sign_hubspot(delivery: DeliveryRequest, secret: str, at: datetime) -> DeliveryRequest:
    sent_at = str(int(at.timestamp() * 1000))
    text = f"{delivery.method}{delivery.url}".encode() + delivery.raw_body + sent_at.encode()
    return with_headers(delivery, x_hubspot_signature_v3=base64_mac(secret, text), x_hubspot_request_timestamp=sent_at)


def _sign_mailgun(delivery: DeliveryRequest, secret: str, at: datetime) -> DeliveryRequest:
    token = "token-of-50-characters"
    signed = {
        "timestamp": _seconds(at),
        "token": token,
        "signature": mac(secret, f"{_seconds(at)}{token}".encode()).hex(),
    }
    if _is_form(delivery):
        body = urlencode([*signed.items(), *parse_qsl(delivery.body.decode())]).encode()
    else:
        body = json.dumps({"signature": signed, "event-data": json.loads(delivery.body)}).encode()
    return replace(delivery, raw_body=body, body=body)


def _share(header: str, prefix: str = "") -> Callable[..., DeliveryRequest]:
    return lambda delivery, secret, at: with_headers(delivery, **{header: prefix + secret})


def _sign_basic(delivery: DeliveryRequest, secret: str, at: datetime) -> DeliveryRequest:
    return with_headers(delivery, authorization="Basic " + base64.b64encode(f"shop:{secret}".encode()).decode())


def _a_cloud_event() -> DeliveryRequest:
    attributes = {"id": "a-1", "source": "/shop", "type": "com.example.order.paid", "specversion": "1.0"}
    message = to_structured_event(CloudEvent(attributes, {"amount": 10.5}))
    return a_delivery(message.body, content_type=message.headers["content-type"])


def _preset(name: str, sign: Callable[..., DeliveryRequest], library: Any = None, **others: Any) -> WebhookSender:
    return WebhookSender(name, preset_sections(name)["verify"], sign, library, **others)


TWILIO: Mapping[str, Any] = {
    "hmac": "sha1",
    "encoding": "base64",
    "header": "X-Twilio-Signature",
    "signed": "{url}{form}",
    "body_hash": "bodySHA256",
}
MAILGUN: Mapping[str, Any] = {
    "hmac": "sha256",
    "body": "signature.signature",
    "timestamp": {"body": "signature.timestamp"},
    "token": {"body": "signature.token"},
    "signed": "{timestamp}{token}",
}
_WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_TWILIO_BODY = urlencode({"MessageSid": "SM1", "Media": "", "From": "+14155550100", "Body": "Olá & bye"}).encode()

PRESET_SENDERS = [
    _preset(
        "whatsapp",
        _in_header("x_hub_signature_256", _hex("sha256=")),
        lambda sent, secret: webhook_updates_validator(secret, sent.raw_body, sent.headers["x-hub-signature-256"]),
    ),
    _preset("shopify", _in_header("x_shopify_hmac_sha256", base64_mac)),
    _preset(
        "razorpay",
        _in_header("x_razorpay_signature", _hex()),
        lambda sent, secret: razorpay.Utility().verify_webhook_signature(
            sent.raw_body.decode(), sent.headers["x-razorpay-signature"], secret
        ),
    ),
    _preset("woocommerce", _in_header("x_wc_webhook_signature", base64_mac)),
    _preset("shiprocket", _share("x_api_key")),
    _preset(
        "standard-webhooks",
        _sign_standard("webhook"),
        lambda sent, secret: Webhook(secret).verify(sent.raw_body, dict(sent.headers)),
        secret=_WHSEC,
    ),
    _preset(
        "stripe",
        _sign_stripe,
        lambda sent, secret: WebhookSignature.verify_header(sent.raw_body, sent.headers["stripe-signature"], secret),
    ),
    _preset(
        "github",
        _in_header("x_hub_signature_256", _hex("sha256=")),
        lambda sent, secret: validate_event(
            sent.raw_body, signature=sent.headers["x-hub-signature-256"], secret=secret
        ),
    ),
    _preset("cloudevents", _share("authorization", "Bearer "), delivery=_a_cloud_event()),
]
OTHER_SENDERS = [
    WebhookSender(
        "svix",
        preset_sections("standard-webhooks")["verify"],
        _sign_standard("svix"),
        lambda sent, secret: SvixWebhook(secret).verify(sent.raw_body, dict(sent.headers)),
        secret=_WHSEC,
    ),
    WebhookSender(
        "segment", {"hmac": "sha1", "header": "X-Signature"}, _in_header("x_signature", _hex(algorithm="sha1"))
    ),
    WebhookSender(
        "slack",
        {
            "hmac": "sha256",
            "header": "X-Slack-Signature",
            "prefix": "v0=",
            "timestamp": {"header": "X-Slack-Request-Timestamp"},
            "signed": "v0:{timestamp}:{body}",
        },
        _sign_slack,
        _verify_slack,
    ),
    WebhookSender(
        "twilio",
        TWILIO,
        _sign_twilio,
        _verify_twilio,
        delivery=a_delivery(_TWILIO_BODY, content_type=FORM, url="https://events.example.com/hooks/abc?a=b%20c"),
    ),
    WebhookSender(
        "twilio, JSON",
        TWILIO,
        _sign_twilio,
        _verify_twilio,
        delivery=a_delivery(url=f"https://events.example.com/hooks/abc?bodySHA256={hashlib.sha256(BODY).hexdigest()}"),
    ),
    WebhookSender(
        "sendgrid",
        {
            "ecdsa": "sha256",
            "header": "X-Twilio-Email-Event-Webhook-Signature",
            "timestamp": {"header": "X-Twilio-Email-Event-Webhook-Timestamp"},
            "signed": "{timestamp}{body}",
        },
        _sign_sendgrid,
        _verify_sendgrid,
        secret=PUBLIC_KEY,
    ),
    WebhookSender(
        "typeform",
        {"hmac": "sha256", "encoding": "base64", "header": "Typeform-Signature", "prefix": "sha256="},
        _in_header("typeform_signature", lambda secret, text: "sha256=" + base64_mac(secret, text)),
    ),
    WebhookSender(
        "calendly",
        {
            "hmac": "sha256",
            "header": "Calendly-Webhook-Signature",
            "fields": {"timestamp": "t", "signature": "v1"},
            "signed": "{timestamp}.{body}",
            "tolerance": "3m",
        },
        _timestamped("calendly_webhook_signature", "t={},v1={}", "{}."),
    ),
    WebhookSender(
        "hubspot",
        {
            "hmac": "sha256",
            "encoding": "base64",
            "header": "X-HubSpot-Signature-v3",
            "timestamp": {"header": "X-HubSpot-Request-Timestamp"},
            "signed": "{method}{decoded_url}{body}{timestamp}",
        },
        _sign_hubspot,
    ),
    WebhookSender(
        "paddle",
        {
            "hmac": "sha256",
            "header": "Paddle-Signature",
            "separator": ";",
            "fields": {"timestamp": "ts", "signature": "h1"},
            "signed": "{timestamp}:{body}",
            "tolerance": "5s",
        },
        _timestamped("paddle_signature", "ts={};h1={}", "{}:"),
    ),
    WebhookSender("mailgun", MAILGUN, _sign_mailgun),
    WebhookSender(
        "mailgun, form",
        {**MAILGUN, "body": "signature", "timestamp": {"body": "timestamp"}, "token": {"body": "token"}},
        _sign_mailgun,
        delivery=a_delivery(b"event=opened&recipient=a%40example.com", content_type=FORM),
    ),
    WebhookSender("shared, header", {"shared": {"header": "X-Token"}}, _share("x_token")),
    WebhookSender(
        "shared, query",
        {"shared": {"query": "key"}},
        lambda delivery, secret, at: replace(delivery, url=f"{delivery.url}?{urlencode({'key': secret})}"),
    ),
    WebhookSender("basic", {"basic": "shop"}, _sign_basic),
]
SENDERS = [*PRESET_SENDERS, *OTHER_SENDERS]
BY_NAME = {sender.name: sender for sender in SENDERS}
# The libraries have clocks of their own.
NOW = datetime.now(UTC).replace(microsecond=0)


def scheme_of(sender: WebhookSender, **changes: Any) -> Scheme | None:
    """The scheme of a sender, with changes of its section."""
    return read_scheme({**sender.section, **changes})


def verify_delivery(sender: WebhookSender, delivery: DeliveryRequest, *secrets: str, now: datetime = NOW) -> Verdict:
    """The verdict on a delivery by the scheme of a sender, with its secret or others."""
    return verify(scheme_of(sender), secrets or (sender.secret,), delivery, now)
