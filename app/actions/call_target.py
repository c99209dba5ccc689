"""The target of an HTTP call, for the circuit breaker: the method, the origin, and the path as the author wrote it.

The rendered path of `https://shop.example/orders/{{ data.id }}` differs for each order. When the calls for some orders fail,
those for others probably fail too, so they are one target: `POST https://shop.example/orders/*`. Queries are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from yarl import URL

from app.core.template_names import SECRETS

# Output, tags and comments of Liquid and Mustache.
_EXPRESSION = re.compile(r"\{\{.*?\}\}+|\{%.*?%\}", re.DOTALL)
_WRITTEN = re.compile(r"https?://([^/?#]*)(/[^?#]*)?", re.IGNORECASE)
_SECRET = re.compile(rf"\b{SECRETS}\b")
# In a URL that comes from the event as a whole: what is probably an id, a name or a secret.
_VARIABLE = re.compile(r"[^/]*(?:[0-9]{3}|[@%])[^/]*|[^/]{25,}")


def http_target(method: str, template: Any, url: URL) -> str:
    """The target of a call to `url`, which was rendered from `template` (a text, or an object with one as `mustache`)."""
    written = str(template["mustache"] if isinstance(template, Mapping) else template)
    path = _written_path(written)
    if path is None and _SECRET.search(written):
        path = "/*"
    elif path is None:
        path = "/".join(_VARIABLE.sub("*", part) for part in url.raw_path.split("/"))
    return f"{method} {url.origin()}{path}"


def _written_path(template: str) -> str | None:
    """The path in a template, with `*` for expressions; None when an expression renders where the path begins."""
    found = _WRITTEN.match(_EXPRESSION.sub("*", template.strip()))
    if found is None or (found[2] is None and "*" in found[1]):
        return None
    return found[2] or "/"
