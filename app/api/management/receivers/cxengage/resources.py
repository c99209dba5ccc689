"""CxEngage's patterns, templates, listeners, integrations and augments. The routes are served with and without `/1.0`."""

from __future__ import annotations

from functools import partial
from typing import Any

from marshmallow import Schema, fields

from app.api.cxengage.schemas import AugmentSchema, IntegrationSchema, ListenerSchema, PatternSchema, TemplateSchema
from app.api.management.fields import described
from app.api.management.receivers.cxengage.receiver import READ_ERRORS, TENANT, WRITE_ERRORS, CxEngageAcceptedSchema
from app.api.management.receivers.operations import (
    BEARER,
    IDEMPOTENCY_KEY,
    CxEngageErrorSchema,
    operation,
    path_parameter,
    text_answer,
)
from app.core.models import ACCOUNT_MANAGE, EVENTS_WRITE
from app.services.cxengage.crud import MAX_PER_KIND

TAG = "cxengage-resources"
_NAME = path_parameter("name", "The id of the resource, such as PT1, TM1, LI1, AU1 or twilio.")
_PAGE = (
    {
        "name": "limit",
        "in": "query",
        "description": "The size of a page. Without it, the list is complete. The header `Link` leads to the next page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PER_KIND},
    },
    {"name": "after", "in": "query", "description": "As `Link` has it.", "schema": {"type": "string"}},
)
# For routes of one resource, unless they say something else.
_operation = partial(
    operation,
    TAG,
    error_schema=CxEngageErrorSchema,
    security={BEARER: [ACCOUNT_MANAGE]},
    parameters=(TENANT, _NAME),
)
_CHANGE_ERRORS = (*WRITE_ERRORS, 409)


class ListenerStatusSchema(Schema):
    """Whether a listener takes events, and what it has received."""

    id = fields.String(required=True)
    status = fields.String(required=True)
    message = fields.String(required=True)
    received = fields.Integer(required=True)
    last_received_at = fields.String(required=True, allow_none=True, data_key="last-received-at")


class NewListenerTokenSchema(ListenerSchema):
    """A listener with its token, which no other answer has."""

    token = fields.String(required=True)
    receive = fields.String(required=True, metadata=described("The path to which third parties post, with the token."))


class UploadedFileSchema(Schema):
    """What the file of an augment has."""

    id = fields.String(required=True)
    columns = fields.List(fields.String(), required=True)
    rows = fields.Integer(required=True)


def _resource(noun: str, schema: type[Schema], example: dict[str, Any], created: type[Schema]) -> dict[str, Any]:
    """The paths of a kind of resources."""
    return {
        f"/tenants/{{tenant}}/{noun}s": {
            "get": _operation(
                f"list_cxengage_{noun}s",
                f"List {noun}s",
                parameters=(TENANT, *_PAGE),
                answers={200: {"type": "array", "items": schema}},
                errors=READ_ERRORS,
            ),
            "post": _operation(
                f"create_cxengage_{noun}",
                f"Create {_one(noun)}",
                parameters=(TENANT,),
                body=schema,
                example=example,
                answers={201: created},
                errors=_CHANGE_ERRORS,
            ),
        },
        f"/tenants/{{tenant}}/{noun}s/{{name}}": _one_resource(noun, schema),
    }


def _one(noun: str) -> str:
    return f"an {noun}" if noun.startswith("a") else f"a {noun}"


def _one_resource(noun: str, schema: type[Schema]) -> dict[str, Any]:
    return {
        "get": _operation(f"show_cxengage_{noun}", f"Show {_one(noun)}", answers={200: schema}, errors=READ_ERRORS),
        "put": _operation(
            f"change_cxengage_{noun}",
            f"Change {_one(noun)}",
            "Only the fields that it names.",
            body=schema(partial=True),
            example={"description": "for everybody"},
            answers={200: schema},
            errors=_CHANGE_ERRORS,
        ),
        "delete": _operation(
            f"delete_cxengage_{noun}",
            f"Delete {_one(noun)}",
            answers={204: "Deleted"},
            errors=(*READ_ERRORS, 409),
        ),
    }


def _listener_paths() -> dict[str, Any]:
    at = "/tenants/{tenant}/listeners/{name}"
    query = {
        "name": "token",
        "in": "query",
        "description": "The token of the listener. It may be the Bearer token instead.",
        "schema": {"type": "string"},
    }
    return {
        f"{at}/token": {
            "post": _operation(
                "renew_listener_token",
                "Replace the token of a listener",
                answers={201: NewListenerTokenSchema},
                errors=READ_ERRORS,
            )
        },
        f"{at}/status": {
            "get": _operation(
                "show_listener_status",
                "Show what a listener has received",
                answers={200: ListenerStatusSchema},
                errors=READ_ERRORS,
            )
        },
        f"{at}/receive": {
            "post": _operation(
                "receive_of_listener",
                "Send an event to a listener",
                "An object or array of a third party, of which the listener's mapping takes the fields.",
                parameters=(TENANT, _NAME, query, IDEMPOTENCY_KEY),
                security={BEARER: [EVENTS_WRITE]},
                body={"type": ["object", "array"]},
                example={"author": {"name": "jane"}},
                answers={200: CxEngageAcceptedSchema},
                errors=WRITE_ERRORS,
            )
        },
    }


def _integration_paths() -> dict[str, Any]:
    return {
        "/tenants/{tenant}/integrations": {
            "get": _operation(
                "list_cxengage_integrations",
                "List integrations",
                parameters=(TENANT,),
                answers={200: {"type": "array", "items": IntegrationSchema}},
                errors=READ_ERRORS,
            )
        },
        "/tenants/{tenant}/integrations/{name}": {
            "get": _operation(
                "show_cxengage_integration",
                "Show an integration",
                answers={200: IntegrationSchema},
                errors=READ_ERRORS,
            ),
            "post": _operation(
                "set_cxengage_integration",
                "Create or change an integration",
                "Only the fields that it names. Secrets are masked in all answers.",
                body=IntegrationSchema,
                example={"type": "twilio", "account": "AC0123456789abcdef0123456789abcdef", "password": "secret"},
                answers={200: IntegrationSchema},
                errors=WRITE_ERRORS,
            ),
        },
    }


def _file_path() -> dict[str, Any]:
    put = _operation(
        "put_augment_file",
        "Upload the file of an augment",
        "CSV as the body, or as the field `file` of a form.",
        body={"type": "string"},
        example="key,city\n1,Pune\n",
        media_types=("text/csv",),
        answers={201: UploadedFileSchema},
        errors=_CHANGE_ERRORS,
    )
    form = {"type": "object", "required": ["file"], "properties": {"file": {"type": "string"}}}
    put["requestBody"]["content"]["multipart/form-data"] = {"schema": form}
    answer = text_answer("text/csv", "The file.")
    return {
        "/tenants/{tenant}/augments/{name}/file": {
            "get": _operation(
                "show_augment_file",
                "Show the file of an augment",
                answers={200: answer},
                errors=READ_ERRORS,
            ),
            "post": put,
            "delete": _operation(
                "delete_augment_file",
                "Delete the file of an augment",
                answers={204: "Deleted"},
                errors=(*READ_ERRORS, 409),
            ),
        }
    }


_PATTERN = {"name": "Greeting", "when": '(event (= type "hello"))', "then": '(send echo message {:message "Hello"})'}
_LISTENER = {"name": "Posts", "mapping": {"key": "author.name"}}
_AUGMENT = {"name": "Cities", "type": "file", "attributes": ["city"]}
PATHS = {
    **_resource("pattern", PatternSchema, _PATTERN, PatternSchema),
    **_resource("template", TemplateSchema, {"name": "Hello", "template": "Hello {{first-name}}!"}, TemplateSchema),
    **_resource("listener", ListenerSchema, _LISTENER, NewListenerTokenSchema),
    **_listener_paths(),
    **_integration_paths(),
    **_resource("augment", AugmentSchema, _AUGMENT, AugmentSchema),
    **_file_path(),
}
