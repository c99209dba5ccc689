"""Every command works on a filled database: with an account, without one while there is only one, and as JSON.

`CALLS` has a call of each command; a command without one fails.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import click
import psycopg2
import pytest
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo

from app import create_app
from app.cli.commands import group
from app.core import config
from app.db.audit import EntryFilter
from app.db.migrate import upgrade
from app.db.tables import metadata
from app.services import (
    audit,
    roles,
)
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender
from tests.support.command_lines import SIGNALBOX, commands_by_name
from tests.support.filled_account import SECRET, TWILIO, a_filled_account
from tests.support.server import ROOT, clean_environment

COMMANDS = commands_by_name(group)
# The words after each command; {names} are those of the fixture `names`.
CALLS: Mapping[str, str] = {
    "account change": "{account} --name Shop --key-attribute customer --event-attribute kind",
    "account create": "{new} --plan standard --name New",
    "account disable": "{account}",
    "account enable": "{account}",
    "account export": "{account}",
    "account list": "",
    "account plan": "{account} standard --events-per-second 7",
    "account retention": "{account} --events 3650d --runs forever --attempts default --yes",
    "account signing-secret": "{account}",
    "audit list": "--action workflow --actor signalbox --object watch --since 1h",
    "client create": "{account} --name app",
    "client list": "",
    "client revoke": "{client}",
    "completion": "bash",
    "db password": "{roles}_read {secret}",
    "db roles": "--prefix {roles}",
    "delivery list": "--source shop --result unmapped --since 1h --until 2100-01-01",
    "delivery show": "{delivery}",
    "drop-partition": "{partition} --yes",
    "event import": "{history} --start-workflows",
    "event list": "--event product_view --subject 915673412780 --phone +915673412780 --since 1h --until 2100-01-01",
    "event replay": "{event} --dry-run",
    "event send": "{events} --url {url} --token {token} --account-id {account_id}",
    "event show": "{event}",
    "integration list": "",
    "integration remove": "twilio",
    "integration rotate": "",
    "integration set": "twilio account_sid=AC00000000000000000000000000000000 from=+15005550006 auth_token=@{secret}",
    "key create": "{account} --name app --scopes events:write,events:read --expires-in 90d",
    "key list": "",
    "key revoke": "{key}",
    "make-encryption-key": "",
    "migrate": "",
    "refusal list": "--status 422 --type validation-failed --key {token} --route /api/v1/cvf-events --since 1h",
    "refusal replay": "{refusal}",
    "refusal show": "{refusal}",
    "run cancel": "{waiting}",
    "run failures": "--since 1h --workflow broken",
    "run list": "--since 1h --subject 915673412780 --workflow broken --failed",
    "run retry": "{failed} --yes",
    "run show": "{failed}",
    "run upcoming": "--from 1s --until 2d",
    "secret list": "",
    "secret remove": "SPARE",
    "secret set": "SHOPIFY",
    "source apply": "{source}",
    "source check": "{source}",
    "source delete": "shop --yes",
    "source disable": "shop",
    "source enable": "shop",
    "source import-listener": "{listener}",
    "source list": "",
    "source replay": "shop --delivery {delivery}",
    "source rotate": "shop --overlap 7d --base-url https://events.example.com",
    "source schema": "",
    "source show": "shop --version 1",
    "source try": "shop {request}",
    "subject erase": "{account} 915673412780 --yes",
    "subject receipts": "{account}",
    "subject show": "{account} 915673412780",
    "subject why": "{account} 915673412780 broken",
    "target enable": "https://example.com/hook",
    "target list": "",
    "user create": "{new}@example.com --member-of {account} --role editor",
    "user delete": "{user} --yes",
    "user disable": "{user}",
    "user enable": "{user}",
    "user list": "",
    "user operator": "{user} on",
    "user password": "{user}",
    "user role": "{user} {account} owner",
    "user sessions": "{user}",
    "user sign-out": "{user}",
    "workflow apply": "{document}",
    "workflow backtest": "{document} --since 30d",
    "workflow check": "{document}",
    "workflow delete": "broken --yes",
    "workflow disable": "watch",
    "workflow enable": "watch --version 1",
    "workflow import-cxengage": "{pattern}",
    "workflow list": "",
    "workflow schema": "",
    "workflow show": "watch --version 1",
    "workflow simulate": "{document} {simulated}",
    "workflow try": "{document} --event {event}",
}
# They run until somebody ends them.
ENDLESS = {"event tail": "", "worker": "--concurrency 2"}
# The commands that change something, and what the audit log says of each, newest first.
AUDITED: Mapping[str, str] = {
    "account change": "account.change",
    "account create": "account.create",
    "account disable": "account.disable",
    "account enable": "account.enable",
    "account plan": "account.plan",
    "account retention": "account.retention",
    "account signing-secret": "account.show-signing-secret",
    "client create": "client.create",
    "client revoke": "client.revoke",
    "db password": "role.set-password",
    "db roles": "role.make",
    "drop-partition": "partition.drop",
    "event import": "event.import",
    "event replay": "event.replay",
    "integration remove": "integration.remove",
    "integration rotate": "integration.rotate",
    "integration set": "integration.set",
    "key create": "key.create",
    "key revoke": "key.revoke",
    "refusal replay": "refusal.replay",
    "run cancel": "run.cancel",
    "run retry": "run.retry",
    "secret remove": "secret.remove",
    "secret set": "secret.set",
    "source apply": "source.change",
    "source delete": "source.delete",
    "source disable": "source.disable",
    "source enable": "source.enable",
    "source replay": "source.replay",
    "source rotate": "source.rotate",
    "subject erase": "subject.erase",
    "target enable": "target.enable",
    "user create": "user.create",
    "user delete": "user.delete",
    "user disable": "user.disable",
    "user enable": "user.enable",
    "user operator": "user.operator",
    "user password": "user.password",
    "user role": "user.role",
    "user sign-out": "user.sign-out",
    "workflow apply": "workflow.change",
    "workflow delete": "workflow.delete workflow.disable",
    "workflow disable": "workflow.disable",
    "workflow enable": "workflow.enable",
}
# They change nothing, and are recorded since they show a secret.
SHOWING = {"account signing-secret"}
# Commands before one of these, without which it would change nothing; and calls that differ from CALLS.
BEFORE = {
    "account change": "account change {account} --name Old",
    "account enable": "account disable {account}",
    "account retention": "account retention {account} --events default --runs default --attempts default --yes",
    "event replay": "workflow apply {another}",
    "source enable": "source disable shop",
    "workflow enable": "workflow disable watch",
    "user enable": "user disable {user}",
}
CHANGING_CALLS = {"db roles": "--prefix {roles}_more", "event replay": "{event}"}
LISTS = [name for name in COMMANDS if name.endswith(" list")]
# Their ids determine the account, or they need none.
BY_ID = {
    "db roles",
    "delivery show",
    "event replay",
    "event show",
    "refusal replay",
    "refusal show",
    "run cancel",
    "run retry",
    "run show",
}
# What they print besides the output.
STANDARD_ERROR = {"source show": "shop, version 1 of 2, ", "workflow show": "watch, version 1 of "}
# What makes a list longer than one line.
MORE = {
    "account list": ["account create other"],
    "client list": ["client create {account}"],
    "integration list": ["integration set whatsapp access_token=@{secret} phone_number_id=106540352242922"],
    "secret list": ["secret set SHOPIFY"],
    "source list": ["source apply {other_source}"],
    "user list": ["user create {new}@example.com"],
}
# Lines of a list that are read in pages of one line; lists of all accounts have many.
LINES = 20
USER = "anna"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def _options(command: str) -> set[str]:
    return {option for parameter in COMMANDS[command].params for option in parameter.opts}


def _may_name_an_account(command: str) -> bool:
    return any(
        isinstance(one, click.Argument) and one.name == "account" and not one.required
        for one in COMMANDS[command].params
    )


@pytest.fixture(scope="module")
def shop_app(database_url: str) -> Iterator[Flask]:
    """The application on a database of its own, which has one account, `shop`."""
    name = f"commands_{os.getpid()}"
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"create database {name}")
            url = urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
            upgrade(url)
            environment = {
                "DATABASE_URL": url,
                "ENCRYPTION_KEY": "0" * 43 + "=",
                "ALLOWED_PRIVATE_TARGETS": "127.0.0.0/8",
                "LOG_LEVEL": "error",
            }
            flask_app = create_app(config.from_environment(environment))
            context = flask_app.extensions["context"]
            list(roles.make_roles(context, name, roles.plan_roles(context, name, [])))
            yield flask_app
            cursor.execute(f"drop database {name} with (force)")
            cursor.execute("select rolname from pg_roles where starts_with(rolname, %s)", (f"{name}_",))
            for (role,) in cursor.fetchall():
                cursor.execute(f"drop role {role}")


@pytest.fixture(scope="module")
def shop_context(shop_app: Flask) -> AppContext:
    found: AppContext = shop_app.extensions["context"]
    return found


@pytest.fixture(scope="module")
def shop(shop_app: Flask, shop_context: AppContext) -> Sender:
    return a_sender(shop_context, shop_app.test_client(), "shop")


@pytest.fixture
def names(shop_app: Flask, shop: Sender, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Fills the account, and says what is in it: new rows of each kind for each test."""
    with a_filled_account(shop_app, shop, tmp_path) as found:
        yield found


@pytest.fixture
def run(shop_app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Result]:
    """`run("key list --json")` is what the person USER types after `signalbox`."""
    monkeypatch.setenv("SIGNALBOX_ACTOR", USER)

    def call(line: str) -> Result:
        typed = SECRET if line.startswith("secret set") else None
        result = CliRunner().invoke(group, line.split(), typed, obj=ScriptInfo(create_app=lambda: shop_app))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


Run = Callable[[str], Result]
Names = Mapping[str, Any]


def _line(command: str, names: Names) -> str:
    return f"{command} {CALLS[command].format(**names)}"


def test_every_command_has_a_call() -> None:
    assert {*CALLS, *ENDLESS} == set(COMMANDS)


@pytest.mark.parametrize("command", CALLS)
def test_a_command_works_on_the_only_account(command: str, run: Run, names: Names) -> None:
    result = run(_line(command, names))
    assert result.exit_code == 0, result.output
    expected = STANDARD_ERROR.get(command, "")
    assert result.stderr == expected or (expected and result.stderr.startswith(expected))
    assert result.stdout.strip(), "nothing is printed"
    times = re.findall(r"\b\d{4}-\d\d-\d\d[T ][\d:.]+\S*?(?=[\s,;:)\"\\]|$)", result.output)
    assert [text for text in times if not TIME.fullmatch(text)] == [], "times have one spelling"


@pytest.mark.parametrize("command", [name for name in CALLS if "--account" in _options(name)])
@pytest.mark.parametrize("by", ["account", "account_id"])
def test_a_command_works_on_one_account_of_several(command: str, by: str, run: Run, names: Names) -> None:
    assert run("account create other").exit_code == 0
    result = run(f"{_line(command, names)} --account {names[by]}")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip(), "nothing is printed"


@pytest.mark.parametrize("command", [name for name in CALLS if "--account" in _options(name)])
def test_a_command_finds_the_account_or_asks_for_it(command: str, run: Run, names: Names) -> None:
    assert run("account create other").exit_code == 0
    result = run(_line(command, names))
    if command in BY_ID:
        assert (result.exit_code, result.stderr) == (0, "")
    else:
        assert result.exit_code == 1
        assert (
            result.stderr == f"Error: several accounts exist ({names['account']}, other); choose one with --account\n"
        )


# Creating the other account is in the audit log, too.
@pytest.mark.parametrize("command", [name for name in CALLS if _may_name_an_account(name) and name != "audit list"])
def test_a_list_of_all_accounts_may_name_one(command: str, run: Run, names: Names) -> None:
    assert run("account create other").exit_code == 0
    assert run(f"{command} {names['account']}").stdout == run(command).stdout != ""
    assert run(f"{command} other").stdout == ""
    assert run(f"{command} nobody").stderr == "Error: account 'nobody' not found; `signalbox account list` shows all\n"


def _contents(context: AppContext) -> dict[str, str]:
    """A hash of the rows of each table but the audit log, the names of all partitions, and all roles."""
    with context.database.transaction() as connection:
        found = {
            name: connection.exec_driver_sql(
                f"SELECT md5(coalesce(string_agg(one::text, ',' ORDER BY one::text), '')) FROM {name} AS one"
            ).scalar_one()
            for name in metadata.tables
            if name != "audit_log"
        }
        partitions = "SELECT string_agg(inhrelid::regclass::text, ',' ORDER BY inhrelid) FROM pg_inherits"
        roles = "SELECT string_agg(concat(rolname, rolpassword), ',' ORDER BY rolname) FROM pg_authid"
        others = {"partitions": partitions, "roles": roles}
        return found | {name: connection.exec_driver_sql(query).scalar_one() for name, query in others.items()}


@pytest.mark.parametrize("command", CALLS)
def test_a_command_leaves_its_entries_in_the_audit_log_if_it_changes_something(
    command: str, run: Run, names: Names, shop_context: AppContext
) -> None:
    if command in BEFORE:
        assert run(BEFORE[command].format(**names)).exit_code == 0
    before, latest = _contents(shop_context), audit.list_entries(shop_context, EntryFilter(), 1)
    result = run(f"{command} {CHANGING_CALLS.get(command, CALLS[command])}".format(**names))
    assert result.exit_code == 0, result.output
    entries = audit.list_entries(shop_context, EntryFilter(), 10)
    new = entries[: entries.index(latest[0])]
    is_changed = _contents(shop_context) != before
    assert bool(new) == (is_changed or command in SHOWING), "what changes something is in the audit log"
    assert [(entry.action, entry.actor, entry.via) for entry in new] == [
        (action, USER, "cli") for action in AUDITED.get(command, "").split()
    ]
    hidden = {SECRET, TWILIO["auth_token"], *re.findall(r"(?:token|client_secret)=(\S+)", result.stdout)}
    assert [secret for secret in hidden if secret in repr(new)] == []


@pytest.mark.parametrize("command", LISTS)
def test_every_list_has_json_lines_and_pages(command: str) -> None:
    assert {"--json", "--limit", "--after"} <= _options(command)


def _times(value: Any) -> Iterator[str]:
    """All texts in a JSON value that begin as a timestamp does."""
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[T ]", value):
        yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _times(below)


@pytest.mark.parametrize("command", [name for name in COMMANDS if "--json" in _options(name) and name not in ENDLESS])
def test_json_is_one_object_per_line(command: str, run: Run, names: Names) -> None:
    result = run(f"{_line(command, names)} --json")
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert found
    assert command.endswith(" check") or all(isinstance(one, dict) for one in found)
    assert [text for text in _times(found) if not TIME.fullmatch(text)] == []


@pytest.mark.parametrize("command", LISTS)
def test_the_pages_of_a_list_are_the_list(command: str, run: Run, names: Names) -> None:
    for line in MORE.get(command, ()):
        assert run(line.format(**names)).exit_code == 0
    whole = run(f"{command} --json --limit {LINES}").stdout.splitlines()
    assert len(whole) > 1
    pages, after = list[str](), ""
    while len(pages) < LINES:
        page = run(f"{command} --json --limit 1 {after}")
        pages += page.stdout.splitlines()
        if not page.stderr:
            break
        assert len(page.stdout.splitlines()) == 1
        after = page.stderr.removeprefix("There are more; continue with ").strip()
    assert pages == whole


def _count_connections(url: str) -> int:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        # Autovacuum comes and goes.
        of_clients = "backend_type = 'client backend'"
        cursor.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {of_clients}")
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.parametrize("command", ENDLESS)
def test_an_endless_command_ends_with_ctrl_c(command: str, shop_app: Flask, shop: Sender) -> None:
    settings = shop_app.extensions["context"].settings
    environment = clean_environment(DATABASE_URL=settings.database_url, ENCRYPTION_KEY=settings.encryption_keys[0])
    before = _count_connections(settings.database_url)
    with subprocess.Popen(
        [*SIGNALBOX, *command.split(), *ENDLESS[command].split()],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as program:
        # Once connected, it is about its work.
        while program.poll() is None and _count_connections(settings.database_url) <= before:
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        output = program.communicate(timeout=30)[0]
    assert (program.returncode, "Traceback" in output) == (0, False), output
