"""A person's progress and timeline, answers to why, and receipts of erasures."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import PageByIdQuery, RequestSchema, Timestamp, described, page_of, text
from app.api.management.schemas.events import EventSchema
from app.api.management.schemas.runs import RunSchema
from app.core.subjects import MAX_SUBJECT_LENGTH
from app.services import explanations

_DESCRIBED = described("Whom it is about: `distinct_id`.", "915673412780")
_KINDS = (
    explanations.STARTED,
    explanations.WAITS,
    explanations.DISABLED,
    explanations.NOT_SENT,
    explanations.NOT_STARTED,
)


def _subject() -> fields.String:
    return fields.String(required=True, validate=validate.Length(1, MAX_SUBJECT_LENGTH), metadata=_DESCRIBED)


class SubjectQuery(Schema):
    """A subject."""

    subject = _subject()


class WhyQuery(SubjectQuery):
    """A subject and a workflow."""

    workflow = text(metadata=described("Only this workflow."))


class TimelineQuery(PageByIdQuery):
    """A page of a subject's timeline."""

    subject = _subject()


class ProgressSchema(Schema):
    """How far a subject has come in a workflow."""

    workflow = fields.String(required=True)
    description = fields.String(required=True, metadata=described("In words."))
    deadline = Timestamp(required=True, allow_none=True)
    last_started_at = Timestamp(required=True, allow_none=True)
    is_live = fields.Boolean(required=True, metadata=described("It has come some way."))


class SubjectSchema(Schema):
    """How much is stored about a subject, each counted up to 10,000, and its progress."""

    subject = fields.String(required=True)
    events = fields.Integer(required=True)
    runs = fields.Integer(required=True)
    progress = fields.List(fields.Nested(ProgressSchema), required=True)


class SentSchema(Schema):
    """What a step of a run has sent, or tried to."""

    path = fields.String(required=True)
    action = fields.String(required=True)
    status = fields.String(required=True)
    started_at = Timestamp(required=True)
    error = fields.String(required=True, allow_none=True)
    text = fields.String(required=True, allow_none=True)


class TimelineEntrySchema(Schema):
    """An event, or a run with what it has sent."""

    id = fields.UUID(required=True)
    at = Timestamp(required=True)
    event = fields.Nested(EventSchema, required=True, allow_none=True)
    run = fields.Nested(RunSchema, required=True, allow_none=True)
    messages = fields.List(fields.Nested(SentSchema), required=True)


class AnswerSchema(Schema):
    """Why a workflow did or did not start for a subject."""

    workflow = fields.String(required=True)
    kind = fields.String(required=True, validate=validate.OneOf(_KINDS))
    sentence = fields.String(required=True)
    run = fields.UUID(required=True, allow_none=True)
    event = fields.UUID(required=True, allow_none=True)


class AnswersSchema(Schema):
    """An answer for each workflow."""

    items = fields.List(fields.Nested(AnswerSchema), required=True)


class EraseSchema(RequestSchema):
    """Whom to erase."""

    subject = _subject()


class ErasureRequestedSchema(Schema):
    """An erasure that was requested."""

    is_new = fields.Boolean(required=True, metadata=described("false: it was requested before, and has not ended."))


class UnfinishedErasureSchema(Schema):
    """An erasure that has not ended."""

    requested_at = Timestamp(required=True)
    actor = fields.String(required=True, metadata=described("Who called for it."))
    is_running = fields.Boolean(required=True, metadata=described("A worker does it now."))
    counts = fields.Dict(
        required=True, keys=fields.String(), values=fields.Integer(), metadata=described("What is done, by table.")
    )


class UnfinishedErasuresSchema(Schema):
    """The erasures that have not ended."""

    items = fields.List(fields.Nested(UnfinishedErasureSchema), required=True)


class ReceiptSchema(Schema):
    """The receipt of an erasure."""

    id = fields.UUID(required=True)
    at = Timestamp(required=True)
    actor = fields.String(required=True, metadata=described("Who called for it."))
    subject_hash = fields.String(
        required=True, metadata=described("A keyed hash of the subject's id, in hexadecimal digits.")
    )
    counts = fields.Dict(required=True, keys=fields.String(), values=fields.Integer())


TimelinePageSchema = page_of(TimelineEntrySchema, "TimelinePage")
ReceiptPageSchema = page_of(ReceiptSchema, "ReceiptPage")
