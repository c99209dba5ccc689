"""Erases the deliveries that name a data subject.

Bodies have the formats of third parties: all deliveries of the account are searched, a few at a time. A delivery that holds the
events of several people is deleted as a whole; the events stay.
"""

from __future__ import annotations

from urllib.parse import unquote_plus
from uuid import UUID

import sqlalchemy as sa

from app.core.errors import Problem
from app.core.gzip_body import unpack
from app.db import deliveries
from app.db.deliveries import DeliveryTexts
from app.db.erasure_texts import Page
from app.services.context import AppContext
from app.services.refusals_erasure import Mentions

# Bodies in memory at a time: one may have megabytes.
_BATCH = 20


def erase_deliveries_page(
    connection: sa.Connection,
    context: AppContext,
    account_id: int,
    subject: str,
    mentions: Mentions,
    after: UUID | None,
) -> Page:
    """Of a page of an account's deliveries after one (None: from the oldest), delete those that mention a subject, that have made
    an event of it, or whose body cannot be read."""
    rows = deliveries.find_texts_after(connection, account_id, subject, after, _BATCH)
    found = [row.id for row in rows if row.is_of_subject or _is_named(context, row, mentions)]
    erased = deliveries.delete_deliveries(connection, account_id, found) if found else 0
    return Page(rows[-1].id if len(rows) == _BATCH else None, erased)


def _is_named(context: AppContext, row: DeliveryTexts, mentions: Mentions) -> bool:
    body = row.body
    if row.content_encoding is not None:
        try:
            body = unpack(body, context.settings.max_batch_unpacked_bytes)
        except Problem:
            return True
    text = body.decode(errors="replace")
    # A form, or a query, has its characters as %40.
    texts = [text, row.others, *(unquote_plus(one) for one in (text, row.others) if "%" in one or "+" in one)]
    return any(map(mentions.are_in, texts))
