"""The exceptions that every layer may raise, and the table of problem types."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class Unavailable(Exception):
    """Postgres is unavailable (gone, no free connection, a statement timed out). The caller may retry later."""


class NotMigrated(Unavailable):
    """The database lacks a migration of this release: run `signalbox migrate`."""


class LookupLimit(Unavailable):
    """The process has looked up too many unknown keys. A key that exists is found when it comes again."""


class MissingRight(Unavailable):
    """The role of DATABASE_URL lacks a right."""


class DiskFull(Unavailable):
    """Postgres has no space left on its disk."""


class InvalidDatabaseUrl(Unavailable):
    """DATABASE_URL names a host, a database or a role that does not exist, or a wrong password."""


# Before the name of a problem type in `type` of a problem document.
URN_PREFIX = "urn:signalbox:"


class ProblemType(Enum):
    """The kinds of problem that a response can report: name, HTTP status and title.

    Names are part of the contract (RFC 9457 `type`): senders branch on them. They are never changed or reused.
    """

    MALFORMED_REQUEST = ("malformed-request", 400, "Malformed request")
    MALFORMED_BODY = ("malformed-body", 400, "Malformed body")
    INVALID_API_KEY = ("invalid-api-key", 401, "Invalid API key")
    INVALID_ACCESS_TOKEN = ("invalid-access-token", 401, "Invalid access token")
    UNVERIFIED_DELIVERY = ("unverified-delivery", 401, "Unverified delivery")
    INVALID_TICKET = ("invalid-ticket", 401, "Invalid ticket")
    ACCOUNT_DISABLED = ("account-disabled", 403, "Account disabled")
    FORBIDDEN = ("forbidden", 403, "Forbidden")
    LISTENER_DISABLED = ("listener-disabled", 403, "Listener disabled")
    MISSING_SCOPE = ("missing-scope", 403, "Missing scope")
    PLAN_ENDED = ("plan-ended", 403, "Plan ended")
    ACCOUNT_MISMATCH = ("account-mismatch", 403, "Account mismatch")
    NOT_FOUND = ("not-found", 404, "Not found")
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "Method not allowed")
    REQUEST_TIMEOUT = ("request-timeout", 408, "Request timeout")
    CONFLICT = ("conflict", 409, "Conflict")
    PRECONDITION_FAILED = ("precondition-failed", 412, "Precondition failed")
    BODY_TOO_LARGE = ("body-too-large", 413, "Body too large")
    TOO_MANY_EVENTS = ("too-many-events", 413, "Too many events")
    URI_TOO_LONG = ("uri-too-long", 414, "URI too long")
    UNSUPPORTED_CONTENT_ENCODING = ("unsupported-content-encoding", 415, "Unsupported content encoding")
    UNSUPPORTED_MEDIA_TYPE = ("unsupported-media-type", 415, "Unsupported media type")
    EXPECTATION_FAILED = ("expectation-failed", 417, "Expectation failed")
    IDEMPOTENCY_KEY_REUSED = ("idempotency-key-reused", 422, "Idempotency key reused")
    UNSTORABLE_VALUE = ("unstorable-value", 422, "Unstorable value")
    VALIDATION_FAILED = ("validation-failed", 422, "Validation failed")
    PRECONDITION_REQUIRED = ("precondition-required", 428, "Precondition required")
    RATE_LIMIT_EXCEEDED = ("rate-limit-exceeded", 429, "Rate limit exceeded")
    HEADERS_TOO_LARGE = ("headers-too-large", 431, "Request header fields too large")
    INTERNAL_ERROR = ("internal-error", 500, "Internal error")
    NOT_IMPLEMENTED = ("not-implemented", 501, "Not implemented")
    SERVICE_UNAVAILABLE = ("service-unavailable", 503, "Service unavailable")
    HTTP_VERSION_NOT_SUPPORTED = ("http-version-not-supported", 505, "HTTP version not supported")

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.slug = slug
        self.urn = URN_PREFIX + slug
        self.status = status
        self.title = title

    @classmethod
    def of_status(cls, status: int) -> ProblemType:
        """The first type with an HTTP status; for one that no type has, MALFORMED_REQUEST (4xx) or INTERNAL_ERROR."""
        fallback = cls.MALFORMED_REQUEST if 400 <= status < 500 else cls.INTERNAL_ERROR
        return next((kind for kind in cls if kind.status == status), fallback)


class Problem(Exception):
    """An error for the caller: its `type`, a `detail` and, for several faults, `errors`.

    `errors` is a list of `{"field": path, "message": text}` (RFC 9457 extension member).
    """

    def __init__(
        self,
        type: ProblemType,
        detail: str,
        errors: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.type = type
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.type.status

    def document(self) -> dict[str, Any]:
        """The members of the problem document."""
        kind = self.type
        members = {"type": kind.urn, "title": kind.title, "status": kind.status, "detail": self.detail}
        return members if self.errors is None else {**members, "errors": self.errors}
