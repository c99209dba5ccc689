"""Deliveries of third parties, each to the URL of its source."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import described
from app.api.management.receivers.operations import operation, path_parameter
from app.db.deliveries import ACCEPTED, DUPLICATE, PARTLY, UNMAPPED

TAG = "hooks"
_TOKEN = path_parameter("token", "The token in the URL of a source, which is the secret.", "^[0-9a-z]{64}$")
_ERRORS = (401, 403, 404, 429, 503)


class MappingProblemSchema(Schema):
    """What of a delivery could not be mapped."""

    item = fields.Integer(required=True, allow_none=True, metadata=described("The position of a member of its list."))
    path = fields.String(required=True, metadata=described("The part of the source's document.", "map.event"))
    message = fields.String(required=True)


class AcceptedDeliverySchema(Schema):
    """A delivery that is kept."""

    delivery = fields.UUID(metadata=described("Its id."))
    result = fields.String(
        required=True,
        validate=validate.OneOf((ACCEPTED, DUPLICATE, PARTLY, UNMAPPED, "ready")),
        metadata=described("`ready` answers a request without a delivery."),
    )
    events = fields.List(fields.UUID(), metadata=described("The events that it became."))
    duplicates = fields.Integer(metadata=described("How many of them were stored before."))
    problems = fields.List(fields.Nested(MappingProblemSchema), metadata=described("At most five."))


_ANSWER = {
    "description": "The delivery is kept, or the answer to a handshake.",
    "content": {
        "application/json": {"schema": AcceptedDeliverySchema},
        "text/plain": {"schema": {"type": "string"}},
    },
}
PATHS = {
    "/hooks/{token}": {
        "post": {
            **operation(
                TAG,
                "receive_delivery",
                "Deliver to a source",
                "Verified and mapped as the source says, and stored as it arrived with its events. A body of any media type.",
                parameters=(_TOKEN,),
                body={},
                example={"id": 4711, "total": 1999},
                media_types=("application/json", "application/x-www-form-urlencoded", "text/plain"),
                answers={200: _ANSWER},
                errors=(*_ERRORS, 400, 408, 413),
            ),
        },
        "get": operation(
            TAG,
            "test_source_url",
            "Test the URL of a source",
            "Answers the handshake of the source, or says that it is ready. HEAD and OPTIONS are answered in the same way.",
            parameters=(_TOKEN,),
            answers={200: _ANSWER},
            errors=_ERRORS,
        ),
    }
}
