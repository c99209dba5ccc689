"""Accounts with what they send with: API keys, OAuth clients, integrations, secrets."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, UUID

from app.db.tables.columns import NOW, account_table, column, metadata, timestamp

accounts = sa.Table(
    "accounts",
    metadata,
    column("id", sa.BigInteger, "the id that senders put into x-fb-account-id", sa.Identity(always=True)),
    column("slug", sa.Text, "short unique name; the tenant name of the CxEngage routes"),
    column("plan", sa.Text, "trial, standard or unlimited: how many events a second are let in"),
    column("events_per_second", sa.Integer, "overrides the plan's rate; null: the plan's own", null=True),
    timestamp("plan_ends_at", "events are refused from then on; null: no end", null=True),
    timestamp("disabled_at", "when the account was switched off; null: it is on", null=True),
    column(
        "version",
        sa.BigInteger,
        "grows with every change that web processes keep in memory (keys, plan, workflows); checked by each event",
        default="1",
    ),
    column("signing_secret", BYTEA, "secret of the signatures on outbound calls (Standard Webhooks), encrypted"),
    timestamp("created_at", "when the account was made", default=NOW),
    column("name", sa.Text, "what people call it; null: the slug", null=True),
    column(
        "key_attribute", sa.Text, "the attribute of its CxEngage events that says whom they are about", default="'key'"
    ),
    column("event_attribute", sa.Text, "the attribute of its CxEngage events that names them", default="'type'"),
    column(
        "unusable_phone",
        sa.Text,
        "what becomes of an event whose phone cannot be used: refuse it, or store it with the phone in extra",
        default="'refuse'",
    ),
    column("time_zone", sa.Text, "in which people enter times in the console, such as Asia/Kolkata", default="'UTC'"),
    sa.PrimaryKeyConstraint("id"),
    sa.UniqueConstraint("slug"),
    sa.CheckConstraint("plan IN ('trial', 'standard', 'unlimited')", name="plan"),
    sa.CheckConstraint("unusable_phone IN ('refuse', 'store')", name="unusable_phone"),
    comment="who owns everything",
)

keys = account_table(
    "keys",
    column("prefix", sa.Text, "public part of the key (sb_PREFIX_…), enough to name and find it"),
    column("digest", BYTEA, "SHA-256 of the whole key; the key itself is kept nowhere"),
    column("name", sa.Text, "what its owner calls it"),
    column("scopes", ARRAY(sa.Text), "what it may do, such as events:write"),
    timestamp("created_at", "when it was made", default=NOW),
    timestamp("expires_at", "from when on it is refused; null: never", null=True),
    timestamp("revoked_at", "when it was revoked; null: it is in force", null=True),
    timestamp("last_used_at", "when it was last used, to the minute; null: never", null=True),
    sa.PrimaryKeyConstraint("prefix"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    # Serves list_keys and find_account_snapshot.
    sa.Index("keys_created_at_idx", "account_id", "created_at", "prefix"),
    comment="API keys: shown once, kept as a hash, scoped, revocable",
)

clients = account_table(
    "clients",
    column("id", sa.Text, "its client_id (cl_…)"),
    column("digest", BYTEA, "SHA-256 of its client_secret; the secret itself is kept nowhere"),
    column("name", sa.Text, "what its owner calls it"),
    column("token_prefix", sa.Text, "public part of its access token (sbt_PREFIX_…); null: it has none", null=True),
    column("token_digest", BYTEA, "SHA-256 of its access token; null: it has none", null=True),
    timestamp("token_expires_at", "when its access token ends; null: it has none", null=True),
    timestamp("created_at", "when it was made", default=NOW),
    timestamp("revoked_at", "when it was revoked; null: it is in force", null=True),
    timestamp("last_used_at", "when its token was last used, to the minute; null: never", null=True),
    column(
        "scopes",
        ARRAY(sa.Text),
        "what its tokens may do at most, such as events:write",
        default="'{events:write,events:read,account:manage}'",
    ),
    sa.PrimaryKeyConstraint("id"),
    # Serves the foreign key of access_tokens.
    sa.UniqueConstraint("account_id", "id"),
    # The rule: a prefix means one token.
    sa.UniqueConstraint("token_prefix"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    # Serves list_clients and find_account_snapshot.
    sa.Index("clients_created_at_idx", "account_id", "created_at", "id"),
    comment="OAuth clients of the CxEngage routes, each with its access token; secrets are kept as hashes",
)

access_tokens = account_table(
    "access_tokens",
    column("client_id", sa.Text, "the client that it was made for"),
    column("scopes", ARRAY(sa.Text), "what it may do"),
    column("prefix", sa.Text, "public part of the token (sbt_PREFIX_…)"),
    column("digest", BYTEA, "SHA-256 of the token; the token itself is kept nowhere"),
    timestamp("expires_at", "when it ends"),
    # The rule: a client has one token for each set of scopes.
    sa.PrimaryKeyConstraint("account_id", "client_id", "scopes"),
    # The rule: a prefix means one token.
    sa.UniqueConstraint("prefix"),
    sa.ForeignKeyConstraint(["account_id", "client_id"], ["clients.account_id", "clients.id"], ondelete="CASCADE"),
    comment="access tokens with fewer scopes than their OAuth client has; the one with all is in clients",
)

integrations = account_table(
    "integrations",
    column("kind", sa.Text, "whatsapp, twilio, sendgrid or smtp"),
    column("settings", BYTEA, "its fields, credentials among them, as JSON encrypted with ENCRYPTION_KEY"),
    timestamp("created_at", "when it was set up", default=NOW),
    timestamp("updated_at", "when it was last changed", default=NOW),
    sa.PrimaryKeyConstraint("account_id", "kind"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="the services that accounts send with: WhatsApp, Twilio, SendGrid, SMTP",
)

secrets = account_table(
    "secrets",
    column("name", sa.Text, "the name by which documents read it, such as SHOPIFY"),
    column("value", BYTEA, "the text, encrypted with ENCRYPTION_KEY"),
    timestamp("created_at", "when it was first set"),
    timestamp("updated_at", "when its value was last set"),
    sa.PrimaryKeyConstraint("account_id", "name"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    sa.CheckConstraint("name ~ '^[A-Z][A-Z0-9_]{0,63}$'", name="name"),
    comment="values that sources and workflows read as {{ secrets.NAME }}",
)

disabled_targets = account_table(
    "disabled_targets",
    column("target", sa.Text, "the URL without its query"),
    column("reason", sa.Text, "why, in words"),
    column("run_id", UUID(as_uuid=True), "the run that found out"),
    timestamp("disabled_at", "since when"),
    sa.PrimaryKeyConstraint("account_id", "target"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="targets of http steps that answered 410 and are not called until a person enables them",
)
