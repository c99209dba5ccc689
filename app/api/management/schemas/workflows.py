"""Documents of workflows with their mistakes, their versions and differences."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import PageQuery, RequestSchema, Timestamp, described, page_of

MAX_SOURCE = 256 * 1024
_EXAMPLE = "name: greet\non: signed_up\nsteps:\n  - log: 'hello {{ distinct_id }}'\n"
_NEW_EXAMPLE = _EXAMPLE.replace("greet", "welcome")


class NamedWorkflowSchema(Schema):
    """What lists and the workflow itself show."""

    id = fields.UUID(required=True)
    name = fields.String(required=True, metadata=described("Unique in the account.", "greet"))
    enabled_version = fields.Integer(
        required=True, allow_none=True, metadata=described("The version that looks at events; null: it is disabled.", 1)
    )
    latest_version = fields.Integer(required=True, metadata=described("The newest version.", 1))
    updated_at = Timestamp(required=True, metadata=described("When it was last saved, enabled or disabled."))


class WorkflowNameSchema(NamedWorkflowSchema):
    """A workflow in a list."""

    events = fields.List(
        fields.String(),
        required=True,
        metadata=described("The names of events that its enabled version looks at; `*`: any.", ["signed_up"]),
    )


class WorkflowSchema(NamedWorkflowSchema):
    """A workflow with its newest document."""

    created_at = Timestamp(required=True)
    source = fields.String(
        required=True, metadata=described("The document of the newest version as it was saved.", _EXAMPLE)
    )


class DocumentSchema(RequestSchema):
    """A document of a workflow."""

    source = fields.String(
        required=True,
        validate=validate.Length(max=MAX_SOURCE),
        metadata=described("The document as YAML or JSON text. It is kept as it is, with comments.", _NEW_EXAMPLE),
    )


class NewWorkflowSchema(DocumentSchema):
    """A workflow to create."""

    enable = fields.Boolean(
        load_default=True,
        metadata=described("Enable it. Otherwise the document may have mistakes.", True),
    )


class ChangedWorkflowSchema(DocumentSchema):
    """A new version of a workflow."""

    enable = fields.Boolean(
        load_default=None,
        allow_none=True,
        metadata=described(
            "Enable the new version. false: only save it, also with mistakes. null: enable it if the workflow is enabled.",
            True,
        ),
    )


class MistakeSchema(Schema):
    """A mistake in a document."""

    path = fields.String(required=True, metadata=described("Where it is in the document.", "steps[0].http.url"))
    message = fields.String(required=True, metadata=described("What is wrong, and what would be right."))
    line = fields.Integer(required=True, allow_none=True)
    column = fields.Integer(required=True, allow_none=True)


class CheckedSchema(Schema):
    """The result of a check."""

    name = fields.String(
        required=True, metadata=described("The name in the document; empty without a valid one.", "greet")
    )
    mistakes = fields.List(fields.Nested(MistakeSchema), required=True)


class EnableSchema(RequestSchema):
    """Which version to enable."""

    version = fields.Integer(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=validate.Range(1, 2**31 - 1),
        metadata=described("Null: the newest.", 1),
    )


class DisableSchema(RequestSchema):
    """How to disable a workflow."""

    cancel_runs = fields.Boolean(
        load_default=False, metadata=described("Also cancel its runs. Otherwise they continue.", False)
    )


class DisabledSchema(Schema):
    """A workflow that was disabled."""

    name = fields.String(required=True)
    cancelled_runs = fields.Integer(required=True)


class VersionQuery(PageQuery):
    """A page of versions."""

    after = fields.Integer(validate=validate.Range(1, 2**31 - 1), metadata=described("The `next` of the page before."))


class VersionSchema(Schema):
    """A version in a list."""

    version = fields.Integer(required=True)
    created_at = Timestamp(required=True)
    author = fields.String(
        required=True, allow_none=True, metadata=described("Who saved it; null: the audit log does not say it.")
    )


class SavedVersionSchema(Schema):
    """The document of a version."""

    name = fields.String(required=True)
    version = fields.Integer(required=True)
    source = fields.String(required=True, metadata=described("The document as it was saved.", _EXAMPLE))


class DifferenceQuery(Schema):
    """Two versions."""

    old = fields.Integer(required=True, validate=validate.Range(1, 2**31 - 1), metadata=described("A version.", 1))
    new = fields.Integer(
        required=True, validate=validate.Range(1, 2**31 - 1), metadata=described("Another version.", 2)
    )


class LineSchema(Schema):
    """A line of a difference."""

    old = fields.Integer(
        required=True, allow_none=True, metadata=described("Its number in the old text; null: not there.")
    )
    new = fields.Integer(
        required=True, allow_none=True, metadata=described("Its number in the new text; null: not there.")
    )
    sign = fields.String(
        required=True,
        validate=validate.OneOf(("+", "-", "")),
        metadata=described("`+`: added, `-`: removed, empty: the same. Without numbers, lines are left out here."),
    )
    text = fields.String(required=True)


class DifferenceSchema(Schema):
    """What changed from one version to another."""

    old = fields.Integer(required=True)
    new = fields.Integer(required=True)
    lines = fields.List(
        fields.Nested(LineSchema),
        required=True,
        allow_none=True,
        metadata=described("The changed lines with those around them, at most 1,000; null: the texts are too long."),
    )


WorkflowPageSchema = page_of(WorkflowNameSchema, "WorkflowPage")
VersionPageSchema = page_of(VersionSchema, "VersionPage")
