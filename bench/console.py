"""Pages of the console on the database of `sql.py`: milliseconds from a request to the first byte of the page, in the median.

The pages are those of the console's routes, lists also with filters. CONSOLE_EVENTS says how many events: fewer for a quick look.
"""

from __future__ import annotations

import http.client
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.cookiejar import CookieJar
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection
from werkzeug.routing import Rule

from app import create_app
from app.console.application import PREFIX, create_console
from app.core.encryption import make_signing_secret
from app.core.models import OWNER
from app.services import accounts, secrets, users
from app.services.context import AppContext
from bench import sql
from bench.measuring import cpu_seconds, median
from bench.rows import Row, limited, row
from bench.servers import Backends, ours

MAX_MS = 50.0
_ACCOUNT, _EMAIL, _PASSWORD = "account-1", "owner@example.com", "correct horse battery"
# Requests of each page after the first, and the seconds after which no other begins.
_REQUESTS, _SECONDS = 15, 6.0
_FILES = ("static", "bootstrap.static")
# Pages that compute what they show, within a limit of seconds of their own.
_WITHOUT_LIMIT = ("workflows.backtest",)
# The queries of pages; a page without an entry has none. Names in braces are those of `_values`.
_QUERIES: Mapping[str, tuple[str, ...]] = {
    "deliveries.show": ("", "source=shop", "result=waiting", "since={day}&until={next_day}"),
    "events.rows": ("", "event=name-1"),
    "events.show": (
        "",
        "event=name-1",
        "event=nobody_sent_this",
        "subject={subject}",
        "outcome=started",
        "outcome=no_workflow",
        "source=shop",
        "source=console",
        "data=data.product_id+%3D+1",
        "since={day}&until={next_day}",
    ),
    "failures.show": ("", "period=1h", "period=30d", "workflow=watch"),
    "refusals.show": ("", "status=422", "status=413", "key=none", "waiting=1", "since={day}"),
    "runs.plan_cancel": ("workflow=watch",),
    "runs.plan_retry": ("workflow=watch&status=failed",),
    "runs.show": (
        "",
        "status=failed",
        "status=running",
        "status=cancelled",
        "workflow=watch",
        "subject={subject}",
        "since={day}&until={next_day}",
        "status=failed&target=nothing",
    ),
    "settings.plan_retention": ("events=30d",),
    "settings.show_audit": ("", "action=workflow.disable", "object=watch", "actor=nobody", "since={day}"),
    "sources.prepare": ("", "provider=shopify&name=new"),
    "subjects.confirm_erasure": ("subject={subject}",),
    "subjects.show": ("subject={subject}",),
    "subjects.why": ("subject={subject}&workflow=watch",),
    "workflow_editor.edit": ("", "name=watch"),
    "workflow_trial.show": ("name=watch", "name=watch&event={event_id}"),
    "workflows.backtest": ("name=watch",),
    "workflows.plan_delete": ("name=watch",),
    "workflows.plan_disable": ("name=watch",),
    "workflows.show": ("name=watch",),
    "workflows.show_difference": ("name=watch&version=1",),
    "workflows.show_source": ("name=watch&version=1",),
    "workflows.show_versions": ("name=watch",),
}
# What the routes that end so are about.
_NAMES = {"secrets": "TOKEN", "source": "shop"}


def console() -> list[Row]:
    """A row for each page."""
    with sql.loaded("CONSOLE_EVENTS") as base:
        return measure(base)


def measure(base: Backends) -> list[Row]:
    """Start the web processes on a loaded database, sign in, and request every page."""
    with closing(psycopg2.connect(base.url)) as connection:
        _add_secrets_and_user(base, connection)
        values = _values(connection)
    with ours(base) as (url, pid):
        browser = _Browser(url, {"web": (pid,), "Postgres": base.processes["postgres"]})
        browser.sign_in()
        return [_row(browser, endpoint, path) for endpoint, path in _pages(base, values)]


def set_signing_secrets(context: AppContext, connection: Connection) -> None:
    """Encrypt the secrets of all loaded accounts with the key of the web processes."""
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE accounts SET signing_secret = %s", (context.secrets.encrypt(make_signing_secret()),))


def _add_secrets_and_user(base: Backends, connection: Connection) -> None:
    context = AppContext(base.settings)
    set_signing_secrets(context, connection)
    account = accounts.find_account(context, _ACCOUNT)
    users.create_user(context, _EMAIL, _PASSWORD, role=(account, OWNER))
    secrets.set_secret(context, account.id, "TOKEN", "a secret value")
    context.database.close()


def _values(connection: Connection) -> dict[str, Any]:
    """Ids of real rows of the account that has most, some weeks old, and the days after the oldest of them."""
    found = sql.names(connection)
    with connection.cursor() as cursor:
        for table in ("refusals", "deliveries"):
            cursor.execute(f"SELECT id FROM {table} WHERE account_id = 1 ORDER BY id LIMIT 1 OFFSET 100")
            ((found[table],),) = cursor.fetchall()
        cursor.execute(
            "SELECT to_char(now() - days * interval '1 day', 'YYYY-MM-DDT00:00') FROM unnest('{3,2}'::int[]) AS days"
        )
        days = [day for (day,) in cursor.fetchall()]
    return {
        "account": _ACCOUNT,
        "subject": found["subject"],
        "event_id": found["event"],
        "run_id": found["run"],
        "refusal_id": found["refusals"],
        "delivery_id": found["deliveries"],
        "version": 1,
        "kind": "twilio",
        "day": days[0],
        "next_day": days[1],
    }


def _pages(base: Backends, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The endpoint and the path with query of every page."""
    urls = create_console(create_app(base.settings)).url_map
    for rule in sorted(urls.iter_rules(), key=lambda rule: rule.rule):
        if "GET" in (rule.methods or ()) and rule.endpoint not in _FILES:
            arguments = {name: _name(rule) if name == "name" else values[name] for name in rule.arguments}
            path = urls.bind("").build(rule.endpoint, arguments, method="GET")
            for query in _QUERIES.get(rule.endpoint, ("",)):
                yield rule.endpoint, PREFIX + path + ("?" + query.format(**values) if query else "")


def _name(rule: Rule) -> str:
    """The `<name>` in a route."""
    return _NAMES[rule.rule.split("/")[2]]


@dataclass
class _Page:
    """An answer: when its first byte came, its status and size."""

    ms: float
    status: int
    bytes: int


class _Browser:
    """A connection with the cookie of an owner, to a server whose parts are these processes."""

    def __init__(self, url: str, processes: Mapping[str, tuple[int, ...]]) -> None:
        self._url, self._processes = url, processes
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
        self._cookie = ""

    def sign_in(self) -> None:
        """Send the form."""
        cookies = CookieJar()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
        address = f"{self._url}{PREFIX}/sign-in"
        form = opener.open(address).read().decode()
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', form)[1]  # type: ignore[index]
        fields = {"csrf_token": token, "email": _EMAIL, "password": _PASSWORD}
        opener.open(address, urllib.parse.urlencode(fields).encode()).close()
        self._cookie = "; ".join(f"{one.name}={one.value}" for one in cookies)

    def get(self, path: str) -> _Page:
        """Request a page."""
        self._connection.connect()
        with closing(self._connection):
            began = time.monotonic()
            self._connection.request("GET", path, headers={"Cookie": self._cookie})
            answer = self._connection.getresponse()
            first = answer.read(1)
            took = time.monotonic() - began
            return _Page(took * 1000, answer.status, len(first + answer.read()))

    def cpu_ms(self) -> dict[str, float]:
        """The CPU time of each part until now: unlike the time to the first byte, other programs hardly change it."""
        return {part: cpu_seconds(pids) * 1000 for part, pids in self._processes.items()}


def _row(browser: _Browser, endpoint: str, path: str) -> Row:
    expected = 302 if endpoint in ("home", "sign_in") else 200
    pages, began, before = [browser.get(path)], time.monotonic(), browser.cpu_ms()
    while len(pages) <= _REQUESTS and time.monotonic() - began < _SECONDS:
        pages.append(browser.get(path))
    counted = pages[1:] or pages
    cpu = {f"{part} CPU ms": round((used - before[part]) / len(counted), 1) for part, used in browser.cpu_ms().items()}
    failures = [f"the status is {page.status}" for page in pages[:1] if page.status != expected]
    name, ms = "console " + path.removeprefix(PREFIX), median(page.ms for page in counted)
    more = {"bytes": f"{pages[0].bytes:,}", "slowest": round(max(page.ms for page in counted), 1), **cpu}
    if endpoint in _WITHOUT_LIMIT:
        return row(name, ours=ms, unit="ms", failures=failures, more=more)
    return limited(name, ms, MAX_MS, unit=f"ms in the median of {len(counted)}", failures=failures, **more)
