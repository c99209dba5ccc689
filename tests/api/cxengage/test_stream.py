"""The message stream as applications read it, from gunicorn over real sockets."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.core.ids import now, uuid7
from app.core.models import EVENTS_READ
from app.db import messages
from app.db.messages import NewMessage
from app.services import api_keys, message_stream, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run
from tests.support.server import Answer, Server, running_server

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class EventSource:
    """Reads a stream as browsers do: keeps the last id and the retry time, and reconnects."""

    server: Server
    tenant: str
    ticket: str
    prefix: str = "/1.0"
    last_id: str = ""
    pause: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)

    def request(self) -> Answer:
        """One more request, whose messages are added to `seen`."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": self.last_id} if self.last_id else {})}
        path = f"{self.prefix}/tenants/{self.tenant}/stream?ticket={self.ticket}"
        answer = self.server.open(path, headers=headers)
        if answer.status_code == 200:
            assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            for block in answer.text.split("\n\n")[:-1]:
                self._take(dict(line.split(": ", 1) for line in block.split("\n")))
        return answer

    def _take(self, fields: dict[str, str]) -> None:
        assert fields.keys() in ({"retry"}, {"id", "data"})
        self.pause = int(fields.get("retry", self.pause))
        if "data" in fields:
            self.last_id = fields["id"]
            self.seen.append(json.loads(fields["data"]))

    @property
    def texts(self) -> list[str]:
        return [one["text"] for one in self.seen]


@pytest.fixture
def token(context: AppContext, acme: Sender) -> str:
    """A key of acme with the scope `events:read`."""
    return api_keys.create_key(context, acme.account_id, "reader", (EVENTS_READ,))


def request_ticket(server: Server, tenant: str, token: str, prefix: str = "/1.0") -> Answer:
    headers = {"Authorization": f"Bearer {token}"}
    return server.open(f"{prefix}/tenants/{tenant}/ticket", method="POST", headers=headers)


def listening(server: Server, sender: Sender, token: str, prefix: str = "/1.0") -> EventSource:
    """A reader with an unused ticket."""
    answer = request_ticket(server, sender.slug, token, prefix)
    assert (answer.status_code, answer.json.keys(), answer.json["ttl"]) == (200, {"ticket", "ttl"}, 120)
    return EventSource(server, sender.slug, answer.json["ticket"], prefix)


def insert(context: AppContext, sender: Sender, *texts: str) -> list[UUID]:
    """Insert messages, each in its own transaction."""
    ids = []
    for text in texts:
        new = NewMessage(uuid7(now()), sender.account_id, uuid4(), 0, "jane", text, {})
        with context.database.transaction() as connection:
            ids.append(messages.insert_message(connection, new, now()))
    return ids


@pytest.mark.parametrize("prefix", ["/1.0", ""])
def test_the_message_of_a_workflow_arrives(
    context: AppContext, server: Server, acme: Sender, token: str, prefix: str
) -> None:
    source = listening(server, acme, token, prefix)
    message = {"text": "about {{ data.what }}\nand 🙂", "data": {"price": "{{ data.price }}", "exact": 1.10}}
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"message": message}]))
    (run,) = acme.post(an_event(data={"what": "<b>&</b>", "price": 0.1})).json["runs"]
    execute_run(context, acme.account_id, run)
    answer = source.request()
    assert b"<b>" not in answer.data
    (one,) = source.seen
    assert one.keys() == {"id", "text", "data", "distinct_id", "run", "created_at"}
    assert (one["text"], one["data"]) == ("about <b>&</b>\nand 🙂", {"price": 0.1, "exact": 1.1})
    assert (one["distinct_id"], one["run"], one["id"]) == ("915673412780", run, source.last_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", one["created_at"])


def test_each_response_ends_with_a_reconnection_time(server: Server, acme: Sender, token: str) -> None:
    source = listening(server, acme, token)
    answer = source.request()
    assert (answer.status_code, answer.data, source.pause) == (200, b"retry: 1000\n\n", 1_000)
    assert (answer.headers["Cache-Control"], answer.headers["Access-Control-Allow-Origin"]) == ("no-store", "*")


def test_a_reconnecting_client_gets_the_new_messages_only(
    context: AppContext, server: Server, acme: Sender, token: str
) -> None:
    source = listening(server, acme, token)
    insert(context, acme, "a", "b")
    source.request()
    source.request()
    insert(context, acme, "c")
    source.request()
    assert source.texts == ["a", "b", "c"]


def test_a_new_client_can_continue_after_a_message(
    context: AppContext, server: Server, acme: Sender, token: str
) -> None:
    old = listening(server, acme, token)
    insert(context, acme, "a", "b")
    old.request()
    insert(context, acme, "c")
    new = listening(server, acme, token)
    new.ticket += f"&last_event_id={old.last_id}"
    new.request()
    insert(context, acme, "d")
    new.request()
    assert new.texts == ["c", "d"]


def test_a_response_has_at_most_five_hundred_messages(
    context: AppContext, server: Server, acme: Sender, token: str
) -> None:
    source = listening(server, acme, token)
    with context.database.transaction() as connection:
        for number in range(501):
            new = NewMessage(uuid7(now()), acme.account_id, uuid4(), 0, "jane", str(number), {})
            messages.insert_message(connection, new, now())
    source.request()
    assert len(source.seen) == 500
    source.request()
    assert source.texts == list(map(str, range(501)))


def test_clients_miss_and_repeat_nothing_while_workers_write(
    context: AppContext, server: Server, acme: Sender, token: str
) -> None:
    sources = [listening(server, acme, token) for _ in range(2)]
    ended = threading.Event()

    def follow(source: EventSource) -> list[str]:
        while True:
            over, before = ended.is_set(), len(source.seen)
            source.request()
            if over and len(source.seen) == before:
                return source.texts

    with ThreadPoolExecutor(6) as threads:
        readers = [threads.submit(follow, source) for source in sources]
        texts = [[f"{writer}-{number}" for number in range(20)] for writer in range(4)]
        for writer in [threads.submit(insert, context, acme, *each) for each in texts]:
            writer.result(60)
        ended.set()
        seen = [reader.result(60) for reader in readers]
    assert seen[0] == seen[1]
    assert sorted(seen[0]) == sorted(text for each in texts for text in each)
    for number, each in enumerate(texts):
        assert [text for text in seen[0] if text.startswith(f"{number}-")] == each


def test_a_server_of_one_request_at_a_time_serves_many_clients(context: AppContext, acme: Sender, token: str) -> None:
    """gunicorn's sync worker: no stream occupies it."""
    environment = {
        "DATABASE_URL": context.settings.database_url,
        "ENCRYPTION_KEY": ",".join(context.settings.encryption_keys),
        "GUNICORN_CMD_ARGS": "--worker-class sync",
    }
    with running_server(**environment) as plain:
        sources = [listening(plain, acme, token) for _ in range(20)]
        insert(context, acme, "a")
        with ThreadPoolExecutor(20) as threads:
            list(threads.map(EventSource.request, sources))
        assert [source.texts for source in sources] == [["a"]] * 20
        assert plain.open("/health").status_code == 200


@pytest.mark.parametrize("tenant", ["%00", "acme%00", "%ff", "."])
def test_an_invalid_tenant_has_no_stream(server: Server, tenant: str) -> None:
    answer = server.open(f"/1.0/tenants/{tenant}/stream?ticket=x")
    assert (answer.status_code, list(answer.json)) == (401, ["error"])


@pytest.mark.parametrize("ticket", ["", "nonsense", "x" * 1_000, "%00", "%ff", "a&ticket=b"])
def test_a_stream_needs_a_valid_ticket(server: Server, acme: Sender, ticket: str) -> None:
    answer = EventSource(server, acme.slug, ticket).request()
    assert (answer.status_code, list(answer.json)) == (401, ["error"])


def test_the_ticket_of_another_tenant_is_refused(
    context: AppContext, server: Server, acme: Sender, globex: Sender, token: str
) -> None:
    source = listening(server, acme, token)
    insert(context, globex, "secret")
    answers = [EventSource(server, tenant, source.ticket).request() for tenant in (globex.slug, "nobody")]
    assert [one.status_code for one in answers] == [401, 401]
    assert answers[0].data == answers[1].data
    insert(context, acme, "a")
    source.request()
    assert source.texts == ["a"]


def test_a_ticket_needs_a_key_of_the_tenant_with_the_scope(
    context: AppContext, server: Server, acme: Sender, globex: Sender, token: str
) -> None:
    foreign = api_keys.create_key(context, globex.account_id, "reader", (EVENTS_READ,))
    requests = [(acme.slug, foreign), (acme.slug, acme.token), (globex.slug, token), ("nobody", token)]
    assert [request_ticket(server, *each).status_code for each in requests] == [403] * 4
    answer = server.open(f"/1.0/tenants/{acme.slug}/ticket", method="POST")
    assert (answer.status_code, list(answer.json)) == (401, ["error"])


def test_an_access_token_creates_tickets_until_its_client_is_revoked(
    context: AppContext, server: Server, acme: Sender
) -> None:
    client_id, secret = api_keys.create_client(context, acme.account_id, "app")
    found = api_keys.authenticate_client(context, client_id, secret)
    assert found is not None
    issued = api_keys.issue_token(context, found, secret, found.scopes)
    assert issued is not None
    source = listening(server, acme, issued.text)
    insert(context, acme, "a")
    source.request()
    assert source.texts == ["a"]
    api_keys.revoke_client(context, client_id)
    assert source.request().status_code == 401


@pytest.mark.parametrize("last", ["nonsense", "01a20154", "2f1e7c1a-6a51-4d0c-9d3b-0c7c1f2f6a10", "%20"])
def test_an_invalid_last_event_id_is_refused(server: Server, acme: Sender, token: str, last: str) -> None:
    source = listening(server, acme, token)
    source.last_id = last
    answer = source.request()
    assert (answer.status_code, list(answer.json)) == (400, ["error"])


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_methods_are_refused(server: Server, acme: Sender, method: str) -> None:
    answer = server.open(f"/1.0/tenants/{acme.slug}/ticket", method=method)
    assert (answer.status_code, list(answer.json), answer.headers["Allow"]) == (405, ["error"], "POST")


def test_the_documented_commands_work(context: AppContext, server: Server, acme: Sender, token: str) -> None:
    (commands,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/cxengage-stream.md").read_text("utf-8"), re.DOTALL)
    ticket, stream = commands.strip().splitlines()
    environment = {
        "url": f"http://127.0.0.1:{server.port}",
        "tenant": acme.slug,
        "access_token": token,
        "PATH": "/usr/bin:/bin",
    }
    got = subprocess.run(
        ["sh", "-ec", f'{ticket}; echo "$ticket"'], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    (message_id,) = insert(context, acme, "a")
    read = subprocess.run(
        ["sh", "-ec", stream], env={**environment, "ticket": got}, capture_output=True, text=True, check=True
    ).stdout
    assert read.startswith(f"retry: 1000\n\nid: {message_id}\ndata: {{")
    assert read.endswith("}\n\n")


def test_a_repeated_step_takes_no_number(context: AppContext, acme: Sender) -> None:
    """The number is counted under a lock, once per message."""
    new = NewMessage(uuid7(now()), acme.account_id, uuid4(), 0, "jane", "a", {})
    with context.database.transaction() as connection:
        ids = {messages.insert_message(connection, new, now()) for _ in range(3)}
        latest = connection.exec_driver_sql(
            "SELECT latest FROM streams WHERE account_id = %(id)s", {"id": acme.account_id}
        ).scalar_one()
    assert (ids, latest) == ({new.id}, 1)
    assert message_stream.MAX_MESSAGES == 500


def test_a_websocket_is_refused_with_what_to_use_instead(context: AppContext, server: Server, acme: Sender) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    answer = server.open(f"/1.0/tenants/{acme.slug}/stream?ticket=x", headers=headers)
    assert answer.status_code == 400
    assert "Server-Sent Events" in answer.json["error"]
