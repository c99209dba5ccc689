"""People who sign in to the console: users, their roles in accounts, and their sessions."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, UUID

from app.db.tables.columns import account_table, column, metadata, timestamp

users = sa.Table(
    "users",
    metadata,
    column("id", UUID(as_uuid=True), "UUIDv7"),
    column("email", sa.Text, "what they sign in with, in lower case"),
    column("password_hash", sa.Text, "Argon2id, with its parameters"),
    column("is_operator", sa.Boolean, "whether they have all rights in all accounts", default="false"),
    timestamp("created_at", "when the user was made"),
    timestamp("password_changed_at", "when the password was set"),
    timestamp("disabled_at", "when the user was disabled; null: is not", null=True),
    sa.PrimaryKeyConstraint("id"),
    # The rule: an email address is one user.
    sa.UniqueConstraint("email"),
    comment="people who sign in to the console",
)

memberships = account_table(
    "memberships",
    column("user_id", UUID(as_uuid=True), "the user"),
    column("role", sa.Text, "owner (everything), editor (everything but keys, users and settings) or viewer (reads)"),
    timestamp("created_at", "when the role was given"),
    # The rule: a user has one role in an account.
    sa.PrimaryKeyConstraint("account_id", "user_id"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
    sa.CheckConstraint("role IN ('owner', 'editor', 'viewer')", name="role"),
    sa.Index("memberships_user_idx", "user_id"),
    comment="what users may do in which accounts",
)

user_sessions = sa.Table(
    "user_sessions",
    metadata,
    column("digest", BYTEA, "SHA-256 of the random text in the cookie"),
    column("id", UUID(as_uuid=True), "names the session in lists; UUIDv7"),
    column("user_id", UUID(as_uuid=True), "who signed in"),
    timestamp("created_at", "when they signed in"),
    timestamp("seen_at", "the last request, to the minute"),
    column("address", sa.Text, "the address from which they signed in"),
    column("agent", sa.Text, "the browser, as it names itself"),
    sa.PrimaryKeyConstraint("digest"),
    sa.UniqueConstraint("id"),
    sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
    sa.Index("user_sessions_user_idx", "user_id"),
    comment="browsers that are signed in to the console; a row that is gone is signed out",
)
