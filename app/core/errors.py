"""The exceptions that every layer may raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Unavailable(Exception):
    """Postgres cannot be asked right now (gone, no connection left, a statement timed out); worth trying again."""


class NotMigrated(Unavailable):
    """A table or column is missing that a migration brings: `flask migrate` mends it."""


class Problem(Exception):
    """Something the caller has to hear: an HTTP `status`, a `title`, a `detail` and, where there are several, `errors`.

    `errors` is a list of `{"field": path, "message": text}` (RFC 9457 extension member).
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        errors: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
