"""Events by minute, latency and how targets answer: the parts of an overview."""

from __future__ import annotations

from marshmallow import Schema, fields

from app.api.management.fields import Timestamp, described


class MinuteSchema(Schema):
    """The events and runs of a minute."""

    at = Timestamp(required=True)
    events = fields.Integer(required=True)
    is_estimate = fields.Boolean(required=True, metadata=described("There are more events than are counted."))
    starts = fields.Integer(required=True, metadata=described("Runs that were started, counted up to 1,000."))
    failures = fields.Integer(required=True, metadata=described("How many of the latest 1,000 failed runs."))
    latency = fields.Float(
        required=True,
        allow_none=True,
        metadata=described(
            "Seconds from the start of a run to its first step: the median of those among the latest 1,000."
        ),
    )


class LatencySchema(Schema):
    """Seconds from the start of a run to its first step."""

    runs = fields.Integer(required=True, metadata=described("How many runs were measured, the latest."))
    median = fields.Float(required=True, allow_none=True)
    high = fields.Float(required=True, allow_none=True, metadata=described("The 95th percentile."))


class CalledSchema(Schema):
    """How a target answered the latest attempts within a day."""

    target = fields.String(required=True)
    attempts = fields.Integer(required=True)
    failed = fields.Integer(required=True)
    median = fields.Float(required=True, metadata=described("Seconds."))
    high = fields.Float(required=True, metadata=described("Seconds: the 95th percentile."))
    last_error = fields.String(required=True, allow_none=True)


class OverviewSchema(Schema):
    """The state of an account in the last hour."""

    since = Timestamp(required=True, metadata=described("The begin of the first minute."))
    minutes = fields.List(fields.Nested(MinuteSchema), required=True)
    events = fields.Integer(required=True)
    starts = fields.Integer(required=True, metadata=described("Runs that were started."))
    failures = fields.Integer(required=True, metadata=described("Runs that failed."))
    refused = fields.Integer(required=True, metadata=described("Requests, without those over the plan's rate."))
    limited = fields.Integer(required=True, metadata=described("Requests over the plan's rate (429)."))
    latency = fields.Nested(LatencySchema, required=True)
    jobs_due = fields.Integer(required=True, metadata=described("Of the account, counted up to 10,000."))
    jobs_late_by = fields.Float(required=True, metadata=described("Seconds that the oldest of them has waited."))
    targets = fields.List(fields.Nested(CalledSchema), required=True, metadata=described("The slowest first."))
