"""The current request, and what `create_app` has made for its process.

Flask's proxies raise and catch an AttributeError for each attribute that is read through them. Werkzeug documents
`_get_current_object` for what is read often.
"""

from __future__ import annotations

from typing import Any

from flask import Request, current_app, request


def extension(name: str) -> Any:
    """What the application has under this name in `extensions`."""
    return current_app._get_current_object().extensions[name]  # type: ignore[attr-defined]


def current_request() -> Request:
    """The request itself, not the proxy."""
    found: Request = request._get_current_object()  # type: ignore[attr-defined]
    return found
