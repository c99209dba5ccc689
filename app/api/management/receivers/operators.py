"""Health, metrics and this document. They are open, and show nothing of accounts."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import Timestamp, described
from app.api.management.receivers.operations import operation, text_answer

TAG = "operators"


class HealthSchema(Schema):
    """That the process works."""

    status = fields.String(required=True, validate=validate.OneOf(("ok",)))


class CheckSchema(Schema):
    """One check of the readiness."""

    name = fields.String(required=True)
    state = fields.String(required=True)
    detail = fields.String(required=True)
    seconds = fields.Float(required=True)


class ReadinessSchema(Schema):
    """Whether events can be stored, and what else fails."""

    status = fields.String(required=True)
    failing = fields.List(fields.String(), required=True, metadata=described("The names of the checks that fail."))
    checked_at = Timestamp(metadata=described("With `verbose`."))
    checks = fields.List(fields.Nested(CheckSchema), metadata=described("With `verbose`."))


_VERBOSE = {
    "name": "verbose",
    "in": "query",
    "description": "All checks with details: for clients on the machine or in OPERATOR_NETWORKS.",
    "schema": {"type": "string"},
    "allowEmptyValue": True,
}
PATHS = {
    "/livez": {
        "get": operation(TAG, "show_liveness", "Whether the process serves requests", answers={200: HealthSchema})
    },
    "/readyz": {
        "get": operation(
            TAG,
            "show_readiness",
            "Whether events can be stored",
            "503 while they cannot.",
            parameters=(_VERBOSE,),
            answers={200: ReadinessSchema, 503: ReadinessSchema},
        )
    },
    "/health": {
        "get": operation(TAG, "show_health", "Whether Postgres answers", answers={200: HealthSchema}, errors=(503,))
    },
    "/metrics": {
        "get": operation(
            TAG,
            "read_metrics",
            "Metrics for Prometheus",
            answers={200: text_answer("text/plain", "All metrics in Prometheus' text format.")},
        )
    },
    "/openapi.json": {"get": operation(TAG, "show_document", "This document", answers={200: {"type": "object"}})},
}
