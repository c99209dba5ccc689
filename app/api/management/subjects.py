"""What is stored about a person, why workflows started or not, and erasure.

The id of a subject is in the query or the body, not in the path: it may be any text.
"""

from __future__ import annotations

from typing import Any

from app.api.management.access import current
from app.api.management.fields import PageByIdQuery, read_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.subjects import (
    AnswersSchema,
    EraseSchema,
    ErasureRequestedSchema,
    ReceiptPageSchema,
    SubjectQuery,
    SubjectSchema,
    TimelinePageSchema,
    TimelineQuery,
    UnfinishedErasuresSchema,
    WhyQuery,
)
from app.core.models import SUBJECTS_ERASE, SUBJECTS_READ
from app.services import data_subjects, erasure_jobs, explanations, timeline

blueprint = Blueprint("subjects", __name__, description="Subjects: the persons whom events are about.")


@route(blueprint, "GET", "/subject", SUBJECTS_READ, query=SubjectQuery, answer=SubjectSchema)
def show_subject(query: dict[str, Any]) -> Any:
    """Show a subject

    How much is stored about it under its own id, and how far it has come in each workflow.
    """
    access, subject = current(), query["subject"]
    counts = timeline.count_subject(access.context, access.account_id, subject)
    progress = data_subjects.list_progress(access.context, access.account_id, subject)
    return {"subject": subject, "events": counts.events, "runs": counts.runs, "progress": progress}


@route(blueprint, "GET", "/subject/timeline", SUBJECTS_READ, query=TimelineQuery, answer=TimelinePageSchema)
def show_timeline(query: dict[str, Any]) -> Any:
    """Show the timeline of a subject

    Its events, runs and what these have sent, the newest first. `after` is the id of an entry.
    """
    access = current()
    return read_page(
        query,
        lambda after, limit: timeline.find_timeline(access.context, access.account_id, query["subject"], after, limit),
        lambda entry: entry.id,
    )


@route(blueprint, "GET", "/subject/why", SUBJECTS_READ, query=WhyQuery, answer=AnswersSchema)
def explain_starts(query: dict[str, Any]) -> Any:
    """Explain starts

    Why each workflow, at most 200, did or did not start for a subject: one sentence each.
    """
    access = current()
    found = explanations.explain_starts(access.context, access.account_id, query["subject"], query.get("workflow"))
    return {"items": found}


@route(
    blueprint,
    "POST",
    "/subject/erase",
    SUBJECTS_ERASE,
    body=EraseSchema,
    answer=ErasureRequestedSchema,
    takes_key=False,
)
def erase_subject(body: dict[str, Any]) -> Any:
    """Erase a subject

    A worker permanently erases all that is stored about it, also where rows of others name it. A receipt stays.
    At most 20 erasures of an account may wait: 409 for a further one.
    """
    access = current()
    return {"is_new": erasure_jobs.request_erasure(access.context, access.account_id, body["subject"])}


@route(blueprint, "GET", "/erasures/unfinished", SUBJECTS_READ, answer=UnfinishedErasuresSchema)
def list_unfinished_erasures() -> Any:
    """List erasures that have not ended

    The oldest first, at most 20, with what is done. None says whom.
    """
    access = current()
    return {"items": erasure_jobs.list_unfinished(access.context, access.account_id)}


@route(blueprint, "GET", "/erasures", SUBJECTS_READ, query=PageByIdQuery, answer=ReceiptPageSchema)
def list_erasures(query: dict[str, Any]) -> Any:
    """List the receipts of erasures

    The newest first. `after` is the id of a receipt.
    """
    access = current()
    page = read_page(
        query,
        lambda after, limit: data_subjects.list_receipts(
            access.context, access.account_id, None, before=after, limit=limit
        ),
        lambda receipt: receipt.id,
    )
    names = ("id", "at", "actor", "counts")
    items = [
        {**{name: getattr(one, name) for name in names}, "subject_hash": one.subject_hash.hex()}
        for one in page["items"]
    ]
    return {**page, "items": items}
