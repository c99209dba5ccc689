"""The values that packages pass to each other, without behaviour.

What every event creates is a msgspec struct, which is created four times as fast as a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class Plan:
    """An account's plan: `events_per_second` (None: unlimited) and its length in `days` (None: no end)."""

    name: str
    events_per_second: int | None
    days: int | None


PLANS: Mapping[str, Plan] = {
    plan.name: plan for plan in (Plan("trial", 100, 30), Plan("standard", 1_000, None), Plan("unlimited", None, None))
}

DEFAULT_PLAN = "standard"

# What an account does with an event whose phone number cannot be used.
REFUSE, STORE = "refuse", "store"

# How an event came (`via`), if not by POST /api/v1/cvf-events: by the console, or CxEngage's receiver; of a source its name
# follows `source:`.
CONSOLE, RECEIVER = "console", "receiver"

# Scopes of an API key. Of the receivers and the CxEngage routes: send events, read received events, manage the account.
EVENTS_WRITE = "events:write"
EVENTS_READ = "events:read"
ACCOUNT_MANAGE = "account:manage"
# Of the management API, where ACCOUNT_MANAGE of a key stands for all but OPERATOR, and that of a client's token for nothing.
# EVENTS_READ also reads refusals.
WORKFLOWS_READ, WORKFLOWS_WRITE = "workflows:read", "workflows:write"
RUNS_READ, RUNS_WRITE = "runs:read", "runs:write"
SOURCES_READ, SOURCES_WRITE = "sources:read", "sources:write"
SUBJECTS_READ, SUBJECTS_ERASE = "subjects:read", "subjects:erase"
SETTINGS_READ, SETTINGS_WRITE = "settings:read", "settings:write"
KEYS_MANAGE, USERS_MANAGE, AUDIT_READ = "keys:manage", "users:manage", "audit:read"
# Other accounts, with the other scopes of the key. Only the command line gives it.
OPERATOR = "operator"
# What the tokens of a new OAuth client may do.
CLIENT_SCOPES = (EVENTS_WRITE, EVENTS_READ, ACCOUNT_MANAGE)
ACCOUNT_SCOPES = (
    *CLIENT_SCOPES,
    WORKFLOWS_READ,
    WORKFLOWS_WRITE,
    RUNS_READ,
    RUNS_WRITE,
    SOURCES_READ,
    SOURCES_WRITE,
    SUBJECTS_READ,
    SUBJECTS_ERASE,
    SETTINGS_READ,
    SETTINGS_WRITE,
    KEYS_MANAGE,
    USERS_MANAGE,
    AUDIT_READ,
)
SCOPES = (*ACCOUNT_SCOPES, OPERATOR)

# Roles of a user in an account: everything; everything but keys, users and settings; reading.
OWNER, EDITOR, VIEWER = "owner", "editor", "viewer"
ROLES = (OWNER, EDITOR, VIEWER)


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it is stored: its public `prefix` (8 characters; 10 of the token of a source) and the SHA-256 digest of the
    whole key.

    With a `client_id` it is the access token of that OAuth client (12 characters of prefix).
    """

    prefix: str
    digest: bytes
    scopes: tuple[str, ...]
    expires_at: datetime | None
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something: the `name` of a person, an OAuth client or an API key; `via` is "cli", "http", "console", or
    "worker" for what Signalbox does by itself. `request_id` is that of the HTTP request."""

    name: str
    via: str
    request_id: str | None = None


SIGNALBOX = Actor("signalbox", "worker")


class Event(Struct, frozen=True):
    """A verified event. `data` is for matching (floats are binary); `data_json` is its exact JSON text for Postgres.

    `body_digest` is of the body that came with an idempotency key; `is_webhook_id`: the key is a `webhook-id`, whose sender may
    write another body for each retry. `via` names the route; None is `POST /api/v1/cvf-events`. `data` includes what
    enrichment added (`augmented_json`, exact JSON text); `data_json` of an event that is being accepted does not.
    `occurred_at` is when it happened, if the sender says so.
    """

    id: UUID
    account_id: int
    event: str
    distinct_id: str
    phone: str | None
    data: Mapping[str, Any]
    data_json: str
    extra_json: str | None
    received_at: datetime
    idempotency_key: str | None = None
    body_digest: bytes | None = None
    is_webhook_id: bool = False
    warnings: tuple[str, ...] = ()
    via: str | None = None
    augmented_json: str | None = None
    occurred_at: datetime | None = None


class Decision(Struct, frozen=True):
    """What one workflow concluded about one event: `started` or not, `contributing` or not, and the `reason` as text.

    Without a `workflow_id` it stands for several workflows that were skipped (`workflow` says how many).
    """

    workflow_id: UUID | None
    workflow: str
    version: int | None
    started: bool
    contributing: bool
    reason: str
    run_id: UUID | None = None


class NewRun(Struct, frozen=True):
    """A run to create. `match_key` is unique per workflow: one run per match, ever. `matched` holds the ids of all events
    that the pattern used; the last of them is `event_id`."""

    id: UUID
    workflow_id: UUID
    version: int
    match_key: str
    event_id: UUID
    event_received_at: datetime
    matched: tuple[UUID, ...]


class Receipt(Struct, frozen=True):
    """The result of accepting an event, for its sender."""

    id: UUID
    account_id: int
    event: str
    distinct_id: str
    received_at: datetime
    duplicate: bool
    contributing: bool
    runs: tuple[UUID, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt of one step ended.

    `kind`: "done" (the step is over), "retry" (the same step again after `retry_after` seconds, or after the policy's
    pause when that is None), "failed" (no further attempt helps) or "later" (no attempt was made: the same step again
    after `retry_after` seconds). `output` is what later steps see as `steps.<id>`; `request` and `response` are kept
    with the attempt, secrets already masked; `error` says in one line what went wrong, `error_class` in one word (such
    as "timeout", "http_4xx", "refused_target"); `gone` is a target that said to be called no more; `held_by` is the target
    whose open circuit is the reason for "later"; `target` is what was called, as circuit breakers name it (None: nothing was).
    """

    kind: str
    output: Mapping[str, Any] = field(default_factory=dict)
    request: Mapping[str, Any] | None = None
    response: Mapping[str, Any] | None = None
    error: str | None = None
    error_class: str | None = None
    retry_after: float | None = None
    gone: str | None = None
    held_by: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A claimed run, with everything that its next step needs.

    `at` is the path of the current step ("steps[0]"; None: after the last), `ordinal` counts the steps entered so far, `attempt`
    the attempts of this step so far (`forgiven` of them do not count), `turn` the recorded changes (compare-and-set), `job`
    is the only queue job that may advance it. `document` is the workflow version that started it; `outputs` maps step ids
    to outputs, `variables` maps names to what steps have set, `last` is the output of the last action. `matched` holds the
    events that the pattern used (their ids: `used`) if the document refers to them, else only the last one. `rounds` counts
    the iterations of the current `repeat`.

    A block of a `par` is a run with `parent_id`; `root_id` is the run without a parent (None for that run itself). A parent
    waits for `blocks_left` blocks. `subject` is whose events the run waits for, if the key is not distinct_id. `isolation` is why
    the run is executed alone: its workflow is "suspected" of killing workers, or one of its runs has "killed" one.
    """

    id: UUID
    account_id: int
    workflow_id: UUID
    workflow: str
    version: int
    document: Mapping[str, Any]
    status: str
    at: str | None
    ordinal: int
    attempt: int
    forgiven: int
    turn: int
    job: int
    event: Event
    outputs: Mapping[str, Any]
    matched: tuple[Event, ...]
    step_started_at: datetime | None = None
    updated_at: datetime | None = None
    used: tuple[str, ...] = ()
    rounds: int = 0
    root_id: UUID | None = None
    parent_id: UUID | None = None
    blocks_left: int | None = None
    subject: str | None = None
    isolation: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """A message that a run published to the account's stream; `data_json` is JSON text with exact numbers."""

    id: UUID
    run_id: UUID
    distinct_id: str
    text: str
    data_json: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EnabledWorkflow:
    """The enabled version of a workflow. `document` has the members that say which events start it: `on`, `key`, `again`."""

    id: UUID
    name: str
    version: int
    document: Mapping[str, Any]
    enablement: int
    triggers: frozenset[str]
