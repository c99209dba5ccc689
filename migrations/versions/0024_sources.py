"""Sources with their versions, and deliveries: what third parties post, as it arrived. Version 3 of the views.

Locks: `accounts` SHARE ROW EXCLUSIVE for the moment of a foreign key; the tables are new.
Safe with the previous code: yes, it neither reads nor writes the tables.
"""

from alembic import op

revision = "0024"
down_revision = "0023"

TABLES = """
CREATE TABLE sources (
    account_id BIGINT NOT NULL,
    id UUID NOT NULL,
    name TEXT NOT NULL,
    enabled BOOLEAN DEFAULT true NOT NULL,
    latest_version INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT sources_pkey PRIMARY KEY (account_id, id),
    CONSTRAINT sources_account_id_name_key UNIQUE (account_id, name),
    CONSTRAINT sources_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
CREATE TABLE source_versions (
    account_id BIGINT NOT NULL,
    source_id UUID NOT NULL,
    version INTEGER NOT NULL,
    source TEXT NOT NULL,
    document JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT source_versions_pkey PRIMARY KEY (account_id, source_id, version),
    CONSTRAINT source_versions_account_id_fkey FOREIGN KEY(account_id, source_id)
        REFERENCES sources (account_id, id) ON DELETE CASCADE
);
CREATE TABLE deliveries (
    account_id BIGINT NOT NULL,
    id UUID NOT NULL,
    source_id UUID NOT NULL,
    source_version INTEGER NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    method TEXT NOT NULL,
    query TEXT,
    headers JSONB NOT NULL,
    body BYTEA NOT NULL,
    content_encoding TEXT,
    verified BOOLEAN NOT NULL,
    result TEXT NOT NULL,
    events JSONB DEFAULT '[]' NOT NULL,
    duplicates INTEGER DEFAULT 0 NOT NULL,
    problems JSONB,
    request_id TEXT NOT NULL,
    replayed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT deliveries_pkey PRIMARY KEY (account_id, id),
    CONSTRAINT deliveries_result_check CHECK (result IN ('accepted', 'duplicate', 'partly', 'unmapped', 'unverified'))
);
CREATE INDEX deliveries_open_idx ON deliveries (account_id, source_id, id)
    WHERE result IN ('partly', 'unmapped', 'unverified');
"""
TABLE_COMMENTS = {
    "sources": "URLs to which third parties post; the documents are in source_versions, the tokens in keys",
    "source_versions": "every version of every source",
    "deliveries": "posts to sources as they arrived, and what became of them; kept for 30 days",
}
OWNER = "the account that owns the row"
COLUMN_COMMENTS = {
    "sources.account_id": OWNER,
    "sources.id": "UUIDv7; idempotency keys of its events begin with it",
    "sources.name": "name of the source; its events have the via source:NAME",
    "sources.enabled": "false: what is posted is kept, and makes no events",
    "sources.latest_version": "the newest version, which is in use",
    "sources.created_at": "when its first version was saved",
    "sources.updated_at": "when it was last changed, enabled or disabled",
    "source_versions.account_id": OWNER,
    "source_versions.source_id": "the source",
    "source_versions.version": "1, 2, 3 …; never changed once saved",
    "source_versions.source": "the document as it was given, comments included",
    "source_versions.document": "the document as data",
    "source_versions.created_at": "when it was saved",
    "deliveries.account_id": OWNER,
    "deliveries.id": "UUIDv7: sorts by time of arrival",
    "deliveries.source_id": "the source to which it was posted",
    "deliveries.source_version": "the version of the source that mapped it last",
    "deliveries.received_at": "when it arrived",
    "deliveries.method": "HTTP method of the request",
    "deliveries.query": "query of the URL, secrets masked; null: none",
    "deliveries.headers": "the request's headers by their names in lower case, secrets masked",
    "deliveries.body": "the body as it arrived",
    "deliveries.content_encoding": "how body is packed: gzip; null: it is not",
    "deliveries.verified": "whether its sender was verified",
    "deliveries.result": "accepted; duplicate (all its events were stored before); partly (a part was not mapped); unmapped; "
    "unverified (refused)",
    "deliveries.events": "ids of its events, also of those that were stored before",
    "deliveries.duplicates": "how many of these were stored before",
    "deliveries.problems": "what was not mapped or verified, and why: [{item, path, message}]; null: nothing",
    "deliveries.request_id": "X-Request-Id of the response",
    "deliveries.replayed_at": "when it was last mapped again; null: never",
}
# The columns of the view: name, expression, comment.
VIEW_COMMENT = "the latest 1,000 deliveries of each account, of the last 7 days; all that are kept are in deliveries"
VIEW_COLUMNS = [
    ("account_id", "accounts.id", "the account that owns the row"),
    ("account", "accounts.slug", "its slug"),
    ("id", "delivery.id", "id of the delivery (UUIDv7)"),
    ("received_at", "delivery.received_at", "when it arrived"),
    ("source", "sources.name", "name of the source"),
    ("source_version", "delivery.source_version", "the version of the source that mapped it last"),
    ("verified", "delivery.verified", "whether its sender was verified"),
    (
        "result",
        "delivery.result",
        "accepted; duplicate (all its events were stored before); partly (a part was not mapped); unmapped; unverified (refused)",
    ),
    ("events", "delivery.events", "ids of its events, also of those that were stored before"),
    ("duplicates", "delivery.duplicates", "how many of these were stored before"),
    (
        "problems",
        "delivery.problems",
        "what was not mapped or verified, and why: [{item, path, message}]; null: nothing",
    ),
    ("body_bytes", "delivery.body_bytes", "bytes of the body as it arrived"),
    ("request_id", "delivery.request_id", "X-Request-Id of the response"),
    ("replayed_at", "delivery.replayed_at", "when it was last mapped again; null: never"),
]
VIEW_SOURCE = """
FROM accounts CROSS JOIN LATERAL (
    SELECT id, source_id, source_version, received_at, verified, result, events, duplicates, problems,
        octet_length(body) AS body_bytes, request_id, replayed_at
    FROM deliveries
    WHERE deliveries.account_id = accounts.id AND deliveries.id >= ops.first_id_at(now() - interval '7 days')
    ORDER BY deliveries.id DESC LIMIT 1000
) AS delivery
LEFT JOIN sources ON sources.account_id = accounts.id AND sources.id = delivery.source_id
"""


def upgrade() -> None:
    op.execute(TABLES)
    for table, text in TABLE_COMMENTS.items():
        set_comment(f"TABLE {table}", text)
    for column, text in COLUMN_COMMENTS.items():
        set_comment(f"COLUMN {column}", text)
    selected = ", ".join(f"{expression} AS {name}" for name, expression, _ in VIEW_COLUMNS)
    op.execute(f"CREATE VIEW ops.deliveries_recent WITH (security_invoker) AS SELECT {selected} {VIEW_SOURCE}")
    set_comment("VIEW ops.deliveries_recent", VIEW_COMMENT)
    for name, _, text in VIEW_COLUMNS:
        set_comment(f"COLUMN ops.deliveries_recent.{name}", text)
    op.execute("CREATE OR REPLACE VIEW ops.version WITH (security_invoker) AS SELECT 3 AS version")


def set_comment(what: str, text: str) -> None:
    quoted = text.replace("'", "''").replace(":", "\\:")
    op.execute(f"COMMENT ON {what} IS '{quoted}'")


def downgrade() -> None:
    op.execute("CREATE OR REPLACE VIEW ops.version WITH (security_invoker) AS SELECT 2 AS version")
    op.execute("DROP VIEW ops.deliveries_recent")
    op.execute("DROP TABLE deliveries, source_versions, sources")
