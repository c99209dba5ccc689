"""Runs with their steps and attempts, and which runs to retry or cancel at once."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import PageByIdQuery, RequestSchema, Timestamp, described, page_of, text
from app.db.inspection import RUN_STATUSES


class RunQuery(PageByIdQuery):
    """Filters of runs."""

    workflow = text(metadata=described("Only runs of this workflow.", "greet"))
    subject = text(metadata=described("Only runs of this subject (`distinct_id`)."))
    status = fields.String(validate=validate.OneOf(RUN_STATUSES), metadata=described("Only runs in this state."))
    since = Timestamp(
        metadata=described(
            "Only runs that were started then or later; with `status=failed`, that failed then or later."
        )
    )
    until = Timestamp(metadata=described("Only runs that were started, or failed, before."))
    target = text(metadata=described("Only failed runs whose last call had this target; `none`: without a target."))
    error_class = text(metadata=described("Only failed runs with this class of error, such as `http_5xx`; `none`."))


class RunSchema(Schema):
    """A run without its steps."""

    id = fields.UUID(required=True)
    workflow = fields.String(required=True, metadata=described("The name of its workflow.", "greet"))
    version = fields.Integer(required=True, metadata=described("It stays on this version."))
    status = fields.String(required=True, validate=validate.OneOf(RUN_STATUSES))
    distinct_id = fields.String(required=True, metadata=described("Whom it is about.", "915673412780"))
    event_id = fields.UUID(required=True, metadata=described("The event that started it."))
    at = fields.String(required=True, allow_none=True, metadata=described("The path of its step.", "steps[0]"))
    attempt = fields.Integer(required=True, metadata=described("How many attempts its step has had."))
    wake_at = Timestamp(required=True, allow_none=True, metadata=described("When it continues without an event."))
    error = fields.String(required=True, allow_none=True)
    error_target = fields.String(required=True, allow_none=True, metadata=described("What the failed step called."))
    error_class = fields.String(required=True, allow_none=True)
    created_at = Timestamp(required=True)
    updated_at = Timestamp(required=True)
    finished_at = Timestamp(required=True, allow_none=True)


class StepSchema(Schema):
    """A step that a run has entered."""

    ordinal = fields.Integer(required=True, metadata=described("Its attempts have the same."))
    path = fields.String(required=True)
    name = fields.String(required=True, allow_none=True)
    action = fields.String(required=True)
    status = fields.String(required=True)
    started_at = Timestamp(required=True)
    finished_at = Timestamp(required=True, allow_none=True)
    output = fields.Raw(required=True, allow_none=True)
    error = fields.String(required=True, allow_none=True)


class AttemptSchema(Schema):
    """One attempt at a step, with secrets masked."""

    ordinal = fields.Integer(required=True)
    attempt = fields.Integer(required=True)
    outcome = fields.String(required=True)
    error_class = fields.String(required=True, allow_none=True)
    error = fields.String(required=True, allow_none=True)
    request = fields.Raw(required=True, allow_none=True)
    response = fields.Raw(required=True, allow_none=True)
    started_at = Timestamp(required=True)
    finished_at = Timestamp(required=True)


class BlockSchema(RunSchema):
    """A parallel block of a run."""

    steps = fields.List(fields.Nested(StepSchema), required=True)
    attempts = fields.List(fields.Nested(AttemptSchema), required=True)
    blocks = fields.List(fields.Nested(lambda: BlockSchema()), required=True)


class RunDetailsSchema(BlockSchema):
    """A run with its timeline: the steps that it has entered, each attempt, and its parallel blocks."""

    matched = fields.List(fields.UUID(), required=True, metadata=described("The events of its match."))


class RetriedSchema(Schema):
    """What became of a run that was to be retried or cancelled."""

    id = fields.UUID(required=True)
    changed = fields.Boolean(
        required=True, metadata=described("false: the run was in another state, and nothing was changed.")
    )


class BulkSchema(RequestSchema):
    """Which runs to retry or cancel: those that pass the filters."""

    dry_run = fields.Boolean(load_default=True, metadata=described("Only count them; false: do it.", False))
    workflow = text(metadata=described("Only runs of this workflow.", "greet"))
    subject = text(metadata=described("Only runs of this subject (`distinct_id`)."))
    since = Timestamp(metadata=described("Only runs that were started, or failed, then or later."))
    until = Timestamp(metadata=described("Only runs that were started, or failed, before."))


class BulkRetrySchema(BulkSchema):
    """Which failed runs to retry."""

    target = text(metadata=described("Only runs whose last call had this target; `none`: without a target."))
    error_class = text(metadata=described("Only runs with this class of error, such as `http_5xx`; `none`."))


class BulkAnswerSchema(Schema):
    """What became of many runs."""

    count = fields.Integer(required=True, metadata=described("How many there are, at most 500: the newest."))
    has_more = fields.Boolean(required=True, metadata=described("There are more: call it again."))
    changed = fields.Integer(required=True, metadata=described("How many were changed; none with `dry_run`."))


class FailureQuery(Schema):
    """Which failed runs to group."""

    workflow = text(metadata=described("Only runs of this workflow.", "greet"))
    since = Timestamp(metadata=described("Only runs that failed then or later. Default: 7 days ago."))


class FailureGroupSchema(Schema):
    """Failed runs with the same target and class of error."""

    target = fields.String(required=True, allow_none=True, metadata=described("null: no call failed."))
    error_class = fields.String(required=True, allow_none=True)
    runs = fields.Integer(required=True)
    subjects = fields.Integer(required=True)
    first_at = Timestamp(required=True)
    last_at = Timestamp(required=True)
    workflows = fields.List(fields.String(), required=True)
    error = fields.String(required=True, allow_none=True, metadata=described("Of the latest run."))
    run_id = fields.UUID(required=True, metadata=described("The latest run."))


class FailuresSchema(Schema):
    """What failed."""

    items = fields.List(fields.Nested(FailureGroupSchema), required=True)
    is_complete = fields.Boolean(required=True, metadata=described("false: there are more, which are older."))


RunPageSchema = page_of(RunSchema, "RunPage")
