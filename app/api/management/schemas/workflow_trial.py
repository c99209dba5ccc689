"""The document and events of a trial or a backtest, and what would have started."""

from __future__ import annotations

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.api.management.fields import Timestamp, described
from app.api.management.schemas.workflows import DocumentSchema
from app.core.subjects import MAX_SUBJECT_LENGTH
from app.services.workflow_trial import MAX_OWN

# Own events of a simulation.
MAX_SIMULATED = 10_000


class TryWorkflowSchema(DocumentSchema):
    """A document to try, on a stored event or on the given events."""

    event_id = fields.UUID(load_default=None, allow_none=True, metadata=described("A stored event."))
    events = fields.List(
        fields.Dict(keys=fields.String()),
        load_default=None,
        allow_none=True,
        validate=validate.Length(1, MAX_OWN),
        metadata=described(
            "Events to try in place of a stored one. Without `received_at` they arrive now.",
            [{"event": "signed_up", "distinct_id": "915673412780", "data": {}}],
        ),
    )
    answers = fields.Dict(
        load_default=None,
        allow_none=True,
        keys=fields.String(),
        metadata=described("The answers that steps get, by their ids or paths."),
    )

    @validates_schema
    def check_events(self, data: dict[str, object], **options: object) -> None:
        """One of both is needed."""
        if (data.get("event_id") is None) == (data.get("events") is None):
            raise ValidationError("expected either event_id or events")


class TriedStepSchema(Schema):
    """A step that a run would enter."""

    path = fields.String(required=True)
    verb = fields.String(required=True)
    name = fields.String(required=True, allow_none=True)
    at = Timestamp(required=True)
    until = Timestamp(required=True, allow_none=True, metadata=described("When its wait ends."))
    status = fields.String(required=True)
    output = fields.Raw(required=True, allow_none=True)
    values = fields.Dict(
        required=True, keys=fields.String(), metadata=described("What a condition has read, by its paths.")
    )
    error = fields.String(required=True, allow_none=True)
    request = fields.Raw(required=True, allow_none=True, metadata=described("What it would send, with secrets masked."))


class TriedRunSchema(Schema):
    """How a run would go."""

    status = fields.String(required=True, metadata=described("done, failed, exited, or cut: it has too many steps."))
    started_at = Timestamp(required=True)
    ended_at = Timestamp(required=True)
    error = fields.String(required=True, allow_none=True)
    steps = fields.List(fields.Nested(TriedStepSchema), required=True)


class TriedEventSchema(Schema):
    """What an event, or a deadline, would do."""

    at = Timestamp(required=True)
    event = fields.String(required=True, allow_none=True, metadata=described("Its name; null: a deadline."))
    started = fields.Boolean(required=True)
    contributing = fields.Boolean(required=True)
    reason = fields.String(required=True)
    run = fields.Nested(TriedRunSchema, required=True, allow_none=True)


class TriedWorkflowSchema(Schema):
    """What a workflow would do, without effects."""

    workflow = fields.String(required=True)
    events = fields.List(fields.Nested(TriedEventSchema), required=True)
    missing = fields.List(
        fields.String(), required=True, metadata=described("What the account lacks; placeholders were used.")
    )
    earlier = fields.Integer(
        required=True, metadata=described("How many earlier stored events of the subject were used.")
    )
    is_cut = fields.Boolean(required=True, metadata=described("The time limit was reached before the last event."))


class SimulateSchema(DocumentSchema):
    """A document, and events to simulate it on."""

    events = fields.List(
        fields.Dict(keys=fields.String()),
        required=True,
        validate=validate.Length(1, MAX_SIMULATED),
        metadata=described(
            "Each as it would be sent, with the time of its arrival as `received_at`.",
            [{"event": "signed_up", "distinct_id": "915673412780", "received_at": "2026-11-22T10:00:00Z"}],
        ),
    )


class SimulatedStepSchema(Schema):
    """What an event, or a deadline that expires, would do."""

    at = Timestamp(required=True)
    event = fields.Integer(
        required=True, allow_none=True, metadata=described("Its position in `events`, from 0; null: a deadline.")
    )
    subject = fields.String(required=True, metadata=described("Empty: none, or the workflow does not look at it."))
    started = fields.Boolean(required=True)
    contributing = fields.Boolean(required=True)
    suppressed = fields.Boolean(
        required=True, metadata=described("The pattern matched, but `again` allows no run yet.")
    )
    reason = fields.String(required=True)
    used = fields.List(
        fields.Integer(), required=True, metadata=described("The positions of the events that start the run.")
    )


class SimulatedSchema(Schema):
    """What a workflow would do with events."""

    workflow = fields.String(required=True)
    items = fields.List(fields.Nested(SimulatedStepSchema), required=True)
    is_cut = fields.Boolean(required=True, metadata=described("The time limit was reached before the last event."))


class BacktestSchema(DocumentSchema):
    """A document, and the stored events to simulate it on."""

    since = Timestamp(
        required=True, metadata=described("Only events that were received then or later.", "2026-01-01T00:00:00Z")
    )
    after = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Length(max=MAX_SUBJECT_LENGTH),
        metadata=described("The `next` of the call before."),
    )


class BacktestAnswerSchema(Schema):
    """The counts of a part of a backtest."""

    subjects = fields.Integer(required=True, metadata=described("With events that the workflow looks at."))
    started = fields.Integer(required=True, metadata=described("Those of them that would have started it."))
    starts = fields.Integer(required=True)
    days = fields.Dict(
        required=True, keys=fields.String(), values=fields.Integer(), metadata=described("Starts by day in UTC.")
    )
    next = fields.String(
        required=True, allow_none=True, metadata=described("Send it as `after` to continue; null: it has ended.")
    )
