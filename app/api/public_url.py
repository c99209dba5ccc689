"""The URL of a request as its sender called it, behind a proxy too: some providers sign it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from app.api.route_limits import is_on_this_machine

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def public_url(environ: WSGIEnvironment, trusted_proxies: int | None) -> str:
    """Scheme, host, path and query, not decoded.

    From a trusted proxy (TRUSTED_PROXIES; without the setting, one on this machine) the scheme is what the proxy says in
    `X-Forwarded-Proto`. The host is `Host`, which the shipped nginx passes on.
    """
    scheme = environ["wsgi.url_scheme"]
    forwarded = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
    is_trusted = is_on_this_machine(environ.get("REMOTE_ADDR")) if trusted_proxies is None else trusted_proxies > 0
    if is_trusted and forwarded in ("http", "https"):
        scheme = forwarded
    return f"{scheme}://{environ.get('HTTP_HOST') or environ['SERVER_NAME']}{_target(environ)}"


def _target(environ: WSGIEnvironment) -> str:
    """Path and query; gunicorn has them as they were sent."""
    target: str = environ.get("RAW_URI", "")
    if target:
        return target
    query = environ.get("QUERY_STRING", "")
    return quote(environ.get("PATH_INFO", "/"), encoding="latin-1") + (f"?{query}" if query else "")
