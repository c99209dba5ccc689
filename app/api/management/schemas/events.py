"""Events, what each workflow decided and why, and what it decides at a replay."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import ExactJson, PageByIdQuery, RequestSchema, Timestamp, described, page_of, text
from app.api.management.schemas.runs import RunSchema
from app.db.event_search import OUTCOMES


class EventQuery(PageByIdQuery):
    """Filters of events."""

    event = text(metadata=described("Only events of this name.", "signed_up"))
    subject = text(metadata=described("Only events of this subject (`distinct_id`)."))
    since = Timestamp(metadata=described("Only events that were received then or later."))
    until = Timestamp(metadata=described("Only events that were received before."))
    outcome = fields.String(
        validate=validate.OneOf(OUTCOMES),
        metadata=described("Only events with this outcome. A search, as `via` and `data`."),
    )
    via = text(
        metadata=described(
            "Only events that came so: `api`, `console`, `receiver` (CxEngage), or the name of a source."
        )
    )
    data = text(metadata=described("Only events with a value at a path of their data: `data.order.id = 5`."))


class NewEventsQuery(PageByIdQuery):
    """Which events to follow."""

    event = text(metadata=described("Only events of this name.", "signed_up"))
    subject = text(metadata=described("Only events of this subject (`distinct_id`)."))
    since = Timestamp(metadata=described("Only events that were received then or later. Default: `after`, or now."))


class EventSchema(Schema):
    """An event in a list, without its data."""

    id = fields.UUID(required=True)
    event = fields.String(required=True, metadata=described("Its name.", "signed_up"))
    distinct_id = fields.String(required=True, metadata=described("Whom it is about.", "915673412780"))
    phone = fields.String(required=True, allow_none=True)
    received_at = Timestamp(required=True)
    occurred_at = Timestamp(required=True, allow_none=True, metadata=described("Null: its sender does not say it."))
    via = fields.String(
        required=True, allow_none=True, metadata=described("How it came; null: by `POST /api/v1/cvf-events`.")
    )
    idempotency_key = fields.String(required=True, allow_none=True)
    warnings = fields.List(fields.String(), required=True)


class NewEventsSchema(Schema):
    """Events as they come."""

    items = fields.List(fields.Nested(EventSchema), required=True)
    next = fields.UUID(required=True, metadata=described("Send it as `after` for those that come later."))


class DecisionSchema(Schema):
    """What a workflow concluded about an event, and why."""

    workflow = fields.String(required=True, metadata=described("Its name; of several workflows, how many.", "greet"))
    version = fields.Integer(required=True, allow_none=True, metadata=described("Null: of several workflows."))
    started = fields.Boolean(required=True)
    contributing = fields.Boolean(
        required=True, metadata=described("Without a start: the event fulfils a part of the pattern.")
    )
    reason = fields.String(required=True)
    run_id = fields.UUID(required=True, allow_none=True, metadata=described("The run that was started."))


class StoredDecisionSchema(DecisionSchema):
    """What a workflow, or several for the same reason, concluded about an event when it arrived."""

    workflows = fields.Dict(
        required=True,
        allow_none=True,
        keys=fields.String(),
        values=fields.Integer(allow_none=True),
        metadata=described("Of several workflows: their versions by name."),
    )


class EventDetailsSchema(EventSchema):
    """An event as it was sent, what each workflow decided, and the runs that it started."""

    data = ExactJson(required=True, metadata=described("As it was sent, with every digit."))
    extra = ExactJson(required=True, allow_none=True, metadata=described("Unknown fields of the request."))
    augmented = ExactJson(required=True, allow_none=True, metadata=described("What augments added."))
    decisions = fields.List(fields.Nested(StoredDecisionSchema), required=True)
    runs = fields.List(fields.Nested(RunSchema), required=True)


class ReplaySchema(RequestSchema):
    """How to replay an event."""

    dry_run = fields.Boolean(load_default=False, metadata=described("Only say what would start; change nothing.", True))
    workflow = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Length(min=1, max=255),
        metadata=described("Only this workflow; null: each that is enabled."),
    )


class ReplayedSchema(DecisionSchema):
    """What a workflow that is enabled now decided about a replayed event."""

    earlier = fields.UUID(
        required=True,
        allow_none=True,
        metadata=described("The run that this match has had before: it gets no second one."),
    )


class ReplayedListSchema(Schema):
    """The result of a replay."""

    items = fields.List(fields.Nested(ReplayedSchema), required=True)


EventPageSchema = page_of(EventSchema, "EventPage")
