"""Lists of the management API on the database of `sql.py`: milliseconds from a request to the whole page, in the median.

The lists are those of the OpenAPI document, each alone and with each of its filters. API_EVENTS says how many events: fewer for a
quick look.
"""

from __future__ import annotations

import http.client
import re
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import psycopg2

from app import create_app
from app.api import bearer_limit
from app.api.management.routes import PREFIX
from app.core.models import ACCOUNT_MANAGE, OPERATOR
from app.services import accounts, api_keys, users
from app.services.context import AppContext
from bench import sql
from bench.console import set_signing_secrets
from bench.measuring import cpu_seconds, median
from bench.rows import Row, limited
from bench.servers import Backends, ours

MAX_MS = 20.0
_ACCOUNT = "account-1"
# Requests of each list after the first, and the seconds after which no other begins.
_REQUESTS, _SECONDS = 15, 3.0
# What the parameter in a path is, by the first part of the path.
_NAMES = {"workflows": "watch", "sources": "shop", "users": "bench@example.com"}
# Parameters that choose the page.
_PAGING = ("limit", "after", "account")


def api() -> list[Row]:
    """A row for each list and filter."""
    with sql.loaded("API_EVENTS") as base:
        return measure(base)


def measure(base: Backends) -> list[Row]:
    """Start the web processes on a loaded database, and request every list with a key of the account that has most."""
    context = AppContext(base.settings)
    with closing(psycopg2.connect(base.url)) as connection:
        set_signing_secrets(context, connection)
        values = _values(connection)
    account = accounts.find_account(context, _ACCOUNT)
    key = api_keys.create_key(context, account.id, "bench", (ACCOUNT_MANAGE, OPERATOR))
    users.create_user(context, _NAMES["users"])
    context.database.close()
    document = create_app(base.settings).test_client().get("/openapi.json").get_json()
    with ours(base) as (url, pid):
        caller = _Caller(url, key, {"web": (pid,), "Postgres": base.processes["postgres"]})
        return [_row(caller, path) for path in paths(document, values)]


def _values(connection: Any) -> dict[str, str]:
    """The filters that find something; those that are not here find nothing."""
    found = sql.names(connection)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_char(now() - days * interval '1 day', 'YYYY-MM-DD\"T\"00:00:00\"Z\"') "
            "FROM unnest('{3,2}'::int[]) AS days"
        )
        since, until = (day for (day,) in cursor.fetchall())
    return {
        "source": "shop",
        "data": "data.product_id = 1",
        "subject": found["subject"],
        "event": "name-1",
        "workflow": "watch",
        "since": since,
        "until": until,
    }


def paths(document: Mapping[str, Any], values: Mapping[str, str]) -> Iterator[str]:
    """The path with query of every list: alone, and with each value of each filter."""
    for path, item in document["paths"].items():
        parameters = item.get("get", {}).get("parameters", ())
        if not path.startswith(PREFIX) or not {"limit", "after"} <= {one.get("name") for one in parameters}:
            continue
        filled = re.sub(r"\{\w+\}", _NAMES.get(path.removeprefix(PREFIX).split("/")[1], "none"), path)
        needed = {
            one["name"]: values.get(one["name"], "")
            for one in parameters
            if one.get("required") and one["in"] == "query"
        }
        yield filled + ("?" + urllib.parse.urlencode(needed) if needed else "")
        for one in parameters:
            if one.get("in") == "query" and one["name"] not in _PAGING:
                schema = one["schema"]
                for value in schema.get("enum") or [values.get(one["name"], _nothing(schema))]:
                    yield f"{filled}?{urllib.parse.urlencode({**needed, one['name']: value})}"


def _nothing(schema: Mapping[str, Any]) -> str:
    """A value that is valid."""
    return "true" if schema.get("type") == "boolean" else "1" if schema.get("type") == "integer" else "nothing"


class _Caller:
    """A connection with a key, to a server whose parts are these processes."""

    def __init__(self, url: str, key: str, processes: Mapping[str, tuple[int, ...]]) -> None:
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
        self._headers, self._processes = {"Authorization": f"Bearer {key}"}, processes

    def get(self, path: str) -> tuple[float, int, int]:
        """Milliseconds, status and bytes."""
        self._connection.connect()
        with closing(self._connection):
            began = time.monotonic()
            self._connection.request("GET", path, headers=self._headers)
            answer = self._connection.getresponse()
            size = len(answer.read())
            return (time.monotonic() - began) * 1000, answer.status, size

    def cpu_ms(self) -> dict[str, float]:
        """The CPU time of each part until now."""
        return {part: cpu_seconds(pids) * 1000 for part, pids in self._processes.items()}


def _row(caller: _Caller, path: str) -> Row:
    # Requests of an account are limited.
    time.sleep((_REQUESTS + 1) * 60 / bearer_limit.MAX_PER_MINUTE)
    _, status, size = caller.get(path)
    began, before, found = time.monotonic(), caller.cpu_ms(), []
    while len(found) < _REQUESTS and time.monotonic() - began < _SECONDS:
        found.append(caller.get(path)[0])
    cpu = {f"{part} CPU ms": round((used - before[part]) / len(found), 1) for part, used in caller.cpu_ms().items()}
    failures = [] if status == 200 else [f"the status is {status}"]
    name, more = "api " + path.removeprefix(PREFIX), {"bytes": f"{size:,}", "slowest": round(max(found), 1), **cpu}
    return limited(name, median(found), MAX_MS, unit=f"ms in the median of {len(found)}", failures=failures, **more)
