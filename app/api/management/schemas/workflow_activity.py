"""What a workflow does: starts, runs at its steps, and events that did not start it."""

from __future__ import annotations

from marshmallow import Schema, fields

from app.api.management.fields import Timestamp, described


class RunsAtStepSchema(Schema):
    """How many runs are at a step."""

    at = fields.String(required=True, metadata=described("The path of the step.", "steps[0]"))
    runs = fields.Integer(required=True)


class WaitingRunSchema(Schema):
    """A run, or a parallel block of one, that is at a step."""

    run_id = fields.UUID(required=True)
    distinct_id = fields.String(required=True)
    at = fields.String(required=True)
    wake_at = Timestamp(required=True, allow_none=True, metadata=described("When it continues without an event."))


class NotStartedSchema(Schema):
    """An event that did not start the workflow."""

    event_id = fields.UUID(required=True)
    event = fields.String(required=True)
    distinct_id = fields.String(required=True)
    received_at = Timestamp(required=True)
    contributing = fields.Boolean(required=True)
    reason = fields.String(required=True)


class ActivitySchema(Schema):
    """What a workflow does. Numbers end at 10,000."""

    starts = fields.List(
        fields.Integer(),
        required=True,
        metadata=described("Runs that were started in each of the last seven times 24 hours, the oldest first."),
    )
    failed = fields.List(fields.Integer(), required=True, metadata=described("How many of them failed."))
    running = fields.List(
        fields.Nested(RunsAtStepSchema), required=True, metadata=described("By step, blocks included.")
    )
    waiting = fields.List(
        fields.Nested(WaitingRunSchema), required=True, metadata=described("Three runs of each step.")
    )
    on_the_way = fields.Integer(
        required=True, metadata=described("How many subjects have fulfilled a part of its pattern.")
    )
    not_started = fields.List(
        fields.Nested(NotStartedSchema), required=True, metadata=described("The latest of seven days, at most 20.")
    )
