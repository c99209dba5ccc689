"""CxEngage's REST receiver: events, tokens and the tenant. The routes are served with and without `/1.0`."""

from __future__ import annotations

from functools import partial

from marshmallow import Schema, fields

from app.api.cxengage.account import KeyAttributeSchema
from app.api.management.fields import described
from app.api.management.receivers.operations import (
    BEARER,
    BODY_ERRORS,
    CLIENT,
    IDEMPOTENCY_KEY,
    CxEngageErrorSchema,
    operation,
    path_parameter,
    text_answer,
)
from app.core.models import ACCOUNT_MANAGE, EVENTS_READ, EVENTS_WRITE

TAG = "cxengage"
TENANT = path_parameter("tenant", "The slug of the account.")
# 403 also while Postgres is unavailable.
READ_ERRORS = (400, 401, 403, 404, 429)
WRITE_ERRORS = (*READ_ERRORS, *BODY_ERRORS[1:])
_operation = partial(operation, TAG, error_schema=CxEngageErrorSchema)


class CxEngageAcceptedSchema(Schema):
    """An event that is stored."""

    event = fields.Dict(required=True, metadata=described("The object as it was sent."))
    key_attr = fields.String(required=True, data_key="key-attr", metadata=described("Whom it is about."))
    id = fields.String(
        required=True, metadata=described("`EV`, the account id, `-`, and the event's UUID as a number.")
    )
    contributing = fields.Boolean(
        required=True,
        data_key="contributing?",
        metadata=described("Whether it started a workflow or advanced a partial match."),
    )


class CxEngageReceivedSchema(Schema):
    """An event of the history."""

    event = fields.Dict(required=True)
    key_attr = fields.String(required=True, data_key="key-attr")
    id = fields.String(required=True)
    return_address = fields.String(required=True, data_key="return-address")
    contributing = fields.Boolean(required=True)


class CxEngageHistorySchema(Schema):
    """The last ten events that the receiver accepted."""

    history = fields.List(fields.Nested(CxEngageReceivedSchema), required=True)


class CxEngageTenantSchema(Schema):
    """A tenant."""

    id = fields.String(required=True)
    name = fields.String(required=True)


class CxEngageTenantsSchema(Schema):
    """The tenants of a token: one."""

    tenants = fields.List(fields.Nested(CxEngageTenantSchema), required=True)


class CxEngageAccountSchema(Schema):
    """The owner of a token."""

    email = fields.String(required=True, allow_none=True, metadata=described("Always null."))
    name = fields.String(required=True)
    client_id = fields.String(required=True, allow_none=True, data_key="client-id")
    ttl = fields.Integer(required=True, allow_none=True, metadata=described("Seconds until the token expires."))
    tenants = fields.List(fields.String(), required=True)


class CxEngageTicketSchema(Schema):
    """A ticket for the message stream."""

    ticket = fields.String(required=True)
    ttl = fields.Integer(required=True, metadata=described("Seconds in which it has to be used first."))


class TokenRequestSchema(Schema):
    """A request for an access token. Id and secret may be here or in the header."""

    grant_type = fields.String(required=True, metadata=described("`client_credentials`"))
    scope = fields.String(metadata=described("Scopes separated by spaces; default: all scopes of the client."))
    client_id = fields.String()
    client_secret = fields.String()


class IssuedTokenSchema(Schema):
    """An access token, valid for 30 days."""

    access_token = fields.String(required=True)
    token_type = fields.String(required=True)
    expires_in = fields.Integer(required=True, metadata=described("Seconds."))
    scope = fields.String(required=True)


class TokenErrorSchema(Schema):
    """Why no token is issued (RFC 6749, section 5.2)."""

    error = fields.String(required=True)
    error_description = fields.String()


PATHS = {
    "/version": {
        "get": _operation(
            "show_cxengage_version",
            "Show the version of the receiver",
            answers={200: {"type": "number", "example": 1.0}},
        )
    },
    "/token": {
        "post": operation(
            TAG,
            "issue_token",
            "Get an access token",
            security={CLIENT: ()},
            body=TokenRequestSchema,
            example={"grant_type": "client_credentials"},
            media_types=("application/x-www-form-urlencoded",),
            answers={200: IssuedTokenSchema},
            errors=(*READ_ERRORS, *BODY_ERRORS[1:]),
            error_schema=TokenErrorSchema,
        )
    },
    "/tenants/{tenant}/event": {
        "post": _operation(
            "receive_cxengage_event",
            "Send an event",
            "Any object that has the key attribute of the tenant, or for which an augment adds it.",
            security={BEARER: [EVENTS_WRITE]},
            parameters=(TENANT, IDEMPOTENCY_KEY),
            body={"type": "object"},
            example={"key": "1", "type": "bar"},
            answers={200: CxEngageAcceptedSchema},
            errors=WRITE_ERRORS,
        )
    },
    "/tenants/{tenant}/event/history": {
        "get": _operation(
            "show_cxengage_history",
            "Show the last ten events",
            security={BEARER: [EVENTS_READ]},
            parameters=(TENANT,),
            answers={200: CxEngageHistorySchema},
            errors=READ_ERRORS,
        )
    },
    "/tenants/{tenant}/": {
        "get": _operation(
            "show_cxengage_tenant",
            "Show the tenant",
            security={BEARER: ()},
            parameters=(TENANT,),
            answers={200: CxEngageTenantSchema},
            errors=READ_ERRORS,
        )
    },
    "/tenants/{tenant}/key-attribute": {
        "get": _operation(
            "show_key_attribute",
            "Show the key attribute",
            "The attribute that identifies the subject of an event.",
            security={BEARER: ()},
            parameters=(TENANT,),
            answers={200: KeyAttributeSchema},
            errors=READ_ERRORS,
        ),
        "post": _operation(
            "set_key_attribute",
            "Change the key attribute",
            "It applies from the next event.",
            security={BEARER: [ACCOUNT_MANAGE]},
            parameters=(TENANT,),
            body=KeyAttributeSchema,
            example={"key": "key"},
            answers={200: KeyAttributeSchema},
            errors=WRITE_ERRORS,
        ),
    },
    "/tenants/{tenant}/ticket": {
        "post": _operation(
            "make_ticket",
            "Get a ticket for the message stream",
            security={BEARER: [EVENTS_READ]},
            parameters=(TENANT,),
            answers={200: CxEngageTicketSchema},
            errors=READ_ERRORS,
        )
    },
    "/tenants/{tenant}/stream": {
        "get": _operation(
            "read_stream",
            "Read the message stream",
            "Server-Sent Events. The answer ends after the messages that exist; connect again after `retry` milliseconds.",
            parameters=(
                TENANT,
                {"name": "ticket", "in": "query", "required": True, "schema": {"type": "string"}},
                {
                    "name": "Last-Event-ID",
                    "in": "header",
                    "description": "The id of the last message. `last_event_id` in the query is an alternative.",
                    "schema": {"type": "string", "format": "uuid"},
                },
                {"name": "last_event_id", "in": "query", "schema": {"type": "string", "format": "uuid"}},
            ),
            answers={200: text_answer("text/event-stream", "Messages of workflows.")},
            errors=READ_ERRORS,
        )
    },
    "/account": {
        "get": _operation(
            "show_cxengage_account",
            "Show the owner of the token",
            security={BEARER: ()},
            answers={200: CxEngageAccountSchema},
            errors=READ_ERRORS,
        )
    },
    "/account/tenants": {
        "get": _operation(
            "list_cxengage_tenants",
            "List the tenants of the token",
            security={BEARER: ()},
            answers={200: CxEngageTenantsSchema},
            errors=READ_ERRORS,
        )
    },
}
