"""CxEngage's resources: patterns, templates, listeners, augments."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from app.db.tables.columns import account_table, column, timestamp

resource_numbers = account_table(
    "resource_numbers",
    column("prefix", sa.Text, "PT, TM, LI or AU"),
    column("latest", sa.Integer, "the highest number given out; none is given out twice"),
    sa.PrimaryKeyConstraint("account_id", "prefix"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="how far the ids of CxEngage resources (PT1, TM1 …) have been counted",
)


def _resource_table(name: str, number: str, *parts: Any, comment: str) -> sa.Table:
    """A table of one kind of resource. `number` is the comment of the column `number`."""
    return account_table(
        name,
        column("number", sa.Integer, number),
        column("name", sa.Text, "what its owner calls it"),
        column("description", sa.Text, "what it is for"),
        *parts,
        timestamp("created_at", "when it was made"),
        timestamp("updated_at", "when it was last changed"),
        sa.PrimaryKeyConstraint("account_id", "number"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        comment=comment,
    )


patterns = _resource_table(
    "patterns",
    "1 is PT1",
    column("when_text", sa.Text, "what has to happen, in the notation of 4.1; null: not given", null=True),
    column("then_text", sa.Text, "what is to be done, in the notation of 4.1; null: not given", null=True),
    column("code", sa.Text, "both as one script, in the notation of 4.2; null: not given", null=True),
    column("key", sa.Text, "the field that says whom the script is about; null: the key attribute", null=True),
    column(
        "workflow_id",
        UUID(as_uuid=True),
        "the workflow that it was compiled into, named PT1; it is switched on while that is enabled; null: never was",
        null=True,
    ),
    comment="patterns in CxEngage's notation; those switched on are workflows as well",
)

templates = _resource_table(
    "templates",
    "1 is TM1",
    column("template", sa.Text, "the text, in Mustache"),
    comment="texts that patterns refer to as +TM1",
)

listeners = _resource_table(
    "listeners",
    "1 is LI1",
    column("type", sa.Text, "what kind of third party posts to it, in its owner's words"),
    column("status", sa.Boolean, "whether it takes events"),
    column("mapping", JSONB, "field of the event: dotted path in what the third party posts"),
    column("options", JSONB, "the owner's, kept as given"),
    column("more", JSONB, "other fields that were given (topic, hash …), kept as given", default="'{}'"),
    column("received", sa.BigInteger, "how many events it has taken", default="0"),
    timestamp("last_received_at", "when it took the last one; null: none yet", null=True),
    comment="where third parties post in a shape of their own; what they post with are keys of the scope listener:LI1",
)

augments = _resource_table(
    "augments",
    "1 is AU1; they are used in this order",
    column("type", sa.Text, "file or api"),
    column("url", sa.Text, "api: the URL that is called; null: of a file", null=True),
    column("attributes", ARRAY(sa.Text), "the attributes that it may add; null: all it knows", null=True),
    column("in_options", sa.Boolean, "whether url and attributes were given, and are answered, inside of options"),
    column("columns", ARRAY(sa.Text), "names of the file's columns; null: no file yet", null=True),
    column("rows", sa.Integer, "how many rows the file has", default="0"),
    column("bytes", sa.Integer, "how large the file was", default="0"),
    column("upload", sa.Integer, "grows with each file", default="0"),
    column(
        "method",
        sa.Text,
        "api: the method of the call; GET: the key is in the query, POST: the whole event is the body",
        default="'GET'",
    ),
    sa.CheckConstraint("type IN ('file', 'api')", name="type"),
    sa.CheckConstraint("method IN ('GET', 'POST')", name="method"),
    comment="what is known beside the events and added to them before workflows look",
)

augment_rows = account_table(
    "augment_rows",
    column("number", sa.Integer, "the augment"),
    column("lookup", sa.Text, "value of the first column"),
    column("position", sa.Integer, "1 is the first row of the file"),
    column("cells", ARRAY(sa.Text), "values of the other columns"),
    # The rule: a value is looked up in one row. Serves find_augment_row.
    sa.PrimaryKeyConstraint("account_id", "number", "lookup"),
    sa.ForeignKeyConstraint(["account_id", "number"], ["augments.account_id", "augments.number"], ondelete="CASCADE"),
    comment="the rows of augments' files",
)
