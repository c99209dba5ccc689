"""The action `whatsapp`: a template message by Meta's WhatsApp Cloud API.

Fields: `to` (a phone number), `template` (its name), `language` (its code, such as en or en_US), and for the variables of
the template `params` (a list of texts, or an object of named ones), `header` (a text, or {image|video|document: URL}) and
`buttons` (a list of texts, one for each button; null for a button without a variable). Output: the API's response as `body`,
such as `{{ steps.ID.body.messages[0].id }}`.

https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-message-templates (requests and responses)
https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes (errors)

The API has no idempotency keys: a message whose response is lost is sent again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from yarl import URL

from app.actions.action_context import ActionContext, ActionError
from app.actions.field_checks import (
    FieldErrors,
    check_names,
    check_text,
    is_blank,
    is_scalar,
    read_url,
    render_parsed,
    text_schema,
)
from app.actions.http_call import call, preview_call
from app.actions.http_request import DEFAULT_HEADERS, EXACT_JSON, Request, encodable
from app.actions.retry_policy import classify_status, retry_after
from app.actions.templates.render import Text, check_texts, is_text, render_scalar
from app.core.addresses import read_phone
from app.core.models import Outcome

FIELDS = ("to", "template", "language", "params", "header", "buttons")
MEDIA = ("image", "video", "document")
_MUSTACHE: dict[str, Any] = {"$ref": "#/definitions/mustache"}
_TEXT: dict[str, Any] = {"anyOf": [{"type": ["string", "number"], "minLength": 1}, _MUSTACHE]}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "to": text_schema("the phone number of the recipient; a template"),
        "template": text_schema("the name of the message template"),
        "language": text_schema("the code of its language, such as en or en_US"),
        "params": {
            "anyOf": [{"type": "array", "items": _TEXT}, {"type": "object", "additionalProperties": _TEXT}],
            "description": "the variables of its body: a list, or an object of named ones; templates",
        },
        "header": {
            "anyOf": [
                _TEXT,
                {
                    "type": "object",
                    "properties": {kind: text_schema("the URL of the file") for kind in MEDIA},
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": False,
                },
            ],
            "description": "the variable of its header: a text, or a file",
        },
        "buttons": {
            "type": "array",
            "items": {"anyOf": [{"type": ["string", "number", "null"], "minLength": 1}, _MUSTACHE]},
            "description": "the variables of its buttons in order; null for a button without one",
        },
    },
    "required": ["to", "template", "language"],
    "additionalProperties": False,
    "description": "send a template message by WhatsApp",
}
API_VERSION = "v23.0"

# By the documentation: too many calls (4, 17, 341, 613, 80007), too many messages (130429, 131048, 131056), and server errors
# (1, 2, 131000, 131016, 131057, 133004).
TRANSIENT_CODES = frozenset((1, 2, 4, 17, 341, 613, 80007, 130429, 131000, 131016, 131048, 131056, 131057, 133004))

_TEMPLATE = re.compile(r"[a-z0-9_]{1,512}")
_LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Za-z0-9]{2,4})?")
_EMPTY = "is empty; WhatsApp does not allow empty parameters"


def check(fields: Any, path: str) -> FieldErrors:
    """Errors of the recipient, the template and what fills it."""
    if not isinstance(fields, Mapping):
        example = '{to: "{{ phone }}", template: cart_rescue, language: en}'
        return [(path, f"must be an object such as {example}")]
    errors = check_names(fields, "whatsapp", FIELDS, path)
    errors += check_text(fields.get("to"), f"{path}.to", "the phone number of the recipient", parse=read_phone)
    errors += check_text(fields.get("template"), f"{path}.template", "the name of the template", parse=_parse_template)
    errors += check_text(
        fields.get("language"), f"{path}.language", "the code of the template's language", parse=_parse_language
    )
    if "params" in fields:
        errors += _check_params(fields["params"], f"{path}.params")
    if "header" in fields:
        errors += _check_header(fields["header"], f"{path}.header")
    if "buttons" in fields:
        errors += _check_buttons(fields["buttons"], f"{path}.buttons")
    return errors


def _parse_template(text: str) -> str:
    if not _TEMPLATE.fullmatch(text.strip()):
        raise ValueError("must be the name of a template: lower-case letters, digits and _")
    return text.strip()


def _parse_language(text: str) -> str:
    if not _LANGUAGE.fullmatch(text.strip()):
        raise ValueError("must be the code of a language such as en or en_US")
    return text.strip()


def _check_params(params: Any, path: str) -> FieldErrors:
    if isinstance(params, Mapping):
        members = [(f"{path}.{name}", member) for name, member in params.items()]
    elif isinstance(params, list):
        members = [(f"{path}[{index}]", member) for index, member in enumerate(params)]
    else:
        return [(path, "must be a list of texts, or an object of named ones")]
    return [error for member_path, member in members for error in _check_parameter(member, member_path)]


def _check_parameter(value: Any, path: str, otherwise: str = "must be text") -> FieldErrors:
    if not is_scalar(value):
        return [(path, otherwise), *check_texts(value, path)]
    return [(path, _EMPTY)] if is_text(value) and is_blank(value) else check_texts(value, path)


def _check_header(header: Any, path: str) -> FieldErrors:
    if isinstance(header, Mapping) and len(header) == 1 and next(iter(header)) in MEDIA:
        ((kind, link),) = header.items()
        return check_text(link, f"{path}.{kind}", "the URL of the file", parse=read_url)
    return _check_parameter(header, path, f"must be text, or one of {', '.join(MEDIA)} with a URL")


def _check_buttons(buttons: Any, path: str) -> FieldErrors:
    if not isinstance(buttons, list):
        return [(path, "must be a list: a text for each button, null for a button without a variable")]
    return [
        error
        for index, member in enumerate(buttons)
        if member is not None
        for error in _check_parameter(member, f"{path}[{index}]", "must be text or null")
    ]


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Send the template message by Meta."""
    integration = context.credentials("whatsapp")
    request = await context.compose(make_request, fields, context, integration)
    return await call(request, context, classify_response)


def preview(fields: Any, context: ActionContext) -> Outcome:
    """The request that would go to Meta."""
    return preview_call(make_request(fields, context, context.credentials("whatsapp")), context)


def make_request(fields: Mapping[str, Any], context: ActionContext, integration: Mapping[str, str]) -> Request:
    """The JSON for Meta's API; raises ActionError and TemplateError."""
    template: dict[str, Any] = {
        "name": _parsed(fields["template"], "template", context, _parse_template),
        "language": {"code": _parsed(fields["language"], "language", context, _parse_language)},
    }
    if components := list(_components(fields, context)):
        template["components"] = components
    message = {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": render_parsed(fields["to"], "to", context, read_phone).removeprefix("+"),
        "type": "template",
        "template": template,
    }
    base = context.settings.whatsapp_base_url
    version, sender = integration.get("api_version", API_VERSION), integration["phone_number_id"]
    headers = {
        **DEFAULT_HEADERS,
        "Authorization": f"Bearer {integration['access_token']}",
        "Content-Type": "application/json",
    }
    url = URL(f"{base}/{version}/{sender}/messages")
    target = f"whatsapp template {template['name']} ({template['language']['code']})"
    body = EXACT_JSON.encode(encodable(message))
    return Request("POST", url, headers, body, target)


def _components(fields: Mapping[str, Any], context: ActionContext) -> list[dict[str, Any]]:
    components: list[dict[str, Any]] = []
    if "header" in fields:
        components.append({"type": "header", "parameters": [_header(fields["header"], context)]})
    params = fields.get("params", [])
    if isinstance(params, Mapping):
        named = [{**_text(params[name], f"params.{name}", context), "parameter_name": name} for name in params]
        components += [{"type": "body", "parameters": named}] if named else []
    elif params:
        texts = [_text(member, f"params[{index}]", context) for index, member in enumerate(params)]
        components.append({"type": "body", "parameters": texts})
    for index, member in enumerate(fields.get("buttons", [])):
        if member is not None:
            text = _text(member, f"buttons[{index}]", context)
            components.append({"type": "button", "sub_type": "url", "index": str(index), "parameters": [text]})
    return components


def _header(header: Any, context: ActionContext) -> dict[str, Any]:
    if is_scalar(header):
        return _text(header, "header", context)
    ((kind, link),) = header.items()
    return {"type": kind, kind: {"link": _parsed(link, f"header.{kind}", context, read_url)}}


def _parsed(template: Text, name: str, context: ActionContext, parse: Callable[[str], str]) -> str:
    return render_parsed(template, name, context, parse, error_class="bad_parameter")


def _text(value: Any, name: str, context: ActionContext) -> dict[str, Any]:
    text = render_scalar(value, context.names).strip()
    if not text:
        raise ActionError("bad_parameter", f"{name} {_EMPTY}")
    return {"type": "text", "text": text}


def classify_response(status: int, headers: Mapping[str, str], body: Any, now: datetime) -> Outcome:
    """The outcome of a response: by its error code if it has one, as the documentation recommends, else by its status."""
    outcome = classify_status(status, headers, now)
    error = body.get("error") if isinstance(body, Mapping) else None
    if outcome.kind == "done" or not isinstance(error, Mapping) or not isinstance(error.get("code"), int):
        return outcome
    code = error["code"]
    is_transient = code in TRANSIENT_CODES or error.get("is_transient") is True
    return Outcome(
        "retry" if is_transient else "failed",
        error=f"WhatsApp answered {status}, code {code}: {_error_message(error)}",
        error_class=f"whatsapp_{code}",
        retry_after=retry_after(headers, now) if is_transient else None,
    )


def _error_message(error: Mapping[str, Any]) -> str:
    data = error.get("error_data")
    details = data.get("details") if isinstance(data, Mapping) else None
    parts = [str(part)[:300] for part in (error.get("message"), details) if part]
    trace = f" (fbtrace_id {str(error['fbtrace_id'])[:50]})" if error.get("fbtrace_id") else ""
    return "; ".join(dict.fromkeys(parts)) + trace
