"""Sending events from a file: unchanged, each once, with retries while the server is busy."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path

import pytest

from app.cli import event_sender
from app.cli.event_sender import (
    CONNECT_TIMEOUT,
    FIRST_TIMEOUT,
    MAX_ATTEMPTS,
    Entry,
    GaveUp,
    Sender,
    ServerUnavailable,
    pause_after,
    read_entries,
)
from tests.cli.conftest import CommandLine
from tests.support.builders import an_event
from tests.support.http_target import Answer, HttpTarget, an_http_target

STORED = Answer(200, b'{"duplicate": false}')
REPEATED = Answer(200, b'{"duplicate": true}')
BUSY = Answer(503, b'{"detail": "The database cannot be reached right now."}', (("Retry-After", "7"),))
INVALID = Answer(422, b'{"title": "Validation failed", "detail": "event is missing"}')


def _read(text: str) -> list[tuple[int, int, str]]:
    total, entries = read_entries(io.BytesIO(text.encode()))
    found = [(entry.position, entry.line, entry.body.decode()) for entry in entries]
    assert total == len(found)
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', [(0, 1, '{"a": 1}')]),
        ('{\n  "a": 1.10\n}\n', [(0, 1, '{\n  "a": 1.10\n}')]),
        (
            '\n{"a": 1}\n\n{"a": 12345678901234567890.10}\n',
            [(0, 2, '{"a": 1}'), (1, 4, '{"a": 12345678901234567890.10}')],
        ),
        ('[{"a": 1},\n {"a":\n1}, {"a": 1}]', [(0, 1, '{"a": 1}'), (1, 2, '{"a":\n1}'), (2, 3, '{"a": 1}')]),
        ("\ufeff[]", []),
        ('{"a": 1}\nnonsense', [(0, 1, '{"a": 1}'), (1, 2, "nonsense")]),
    ],
)
def test_a_file_is_an_object_an_array_or_an_object_a_line(text: str, found: list[tuple[int, int, str]]) -> None:
    assert _read(text) == found


@pytest.mark.parametrize("text", ["", "\n \n", "nonsense", '{"a": 1', "[1, 2", '{"a": NaN}'])
def test_an_invalid_file_is_reported_before_anything_is_sent(text: str) -> None:
    with pytest.raises(ValueError, match=r"the file is empty|expected a JSON object, a JSON array, or one"):
        read_entries(io.BytesIO(text.encode()))


def test_a_stream_is_not_read_ahead() -> None:
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

    stream = Stream(b'{"a": 1}\n{"a": 2}\n')
    total, entries = read_entries(stream)
    next(entries)
    assert (total, stream.readline()) == (None, b'{"a": 2}\n')


def test_a_key_depends_on_content_and_position() -> None:
    keys = {Entry(position, 1, body).idempotency_key() for position in (0, 1) for body in (b"a", b"b")}
    assert len(keys) == 4
    assert Entry(0, 1, b"a").idempotency_key() == Entry(0, 9, b"a").idempotency_key()
    assert Entry(0, 1, b"a").idempotency_key("another file") not in keys


class Rests(list[float]):
    """Records the pauses instead of sleeping."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def _send(server: HttpTarget, body: bytes = b"{}") -> tuple[tuple[str, str], Rests]:
    rests = Rests()
    sender = Sender(server.url, "sb_token", 7, sleep=rests)
    try:
        return sender.send(Entry(0, 1, body)), rests
    finally:
        sender.close()


def test_an_event_is_posted_unchanged() -> None:
    with an_http_target(STORED) as server:
        assert _send(server, b'{"price" : 1.10}')[0] == ("stored", "")
    (call,) = server.calls
    assert (call.method, call.path, call.body) == ("POST", "/api/v1/cvf-events", b'{"price" : 1.10}')
    assert call.headers["x-limechat-uat"] == "sb_token"
    assert call.headers["x-fb-account-id"] == "7"
    assert call.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["", "/", "/api/v1/cvf-events", "/api/v1/cvf-events/"])
def test_the_url_may_have_the_path_or_not(path: str) -> None:
    with an_http_target(STORED) as server:
        Sender(server.url + path, "t", 7).send(Entry(0, 1, b"{}"))
    assert server.calls[0].path == "/api/v1/cvf-events"


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://a.example", "http://", "http://a:x", "http://[", "http://a b/"]
)
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a URL with http"):
        Sender(url, "t", 7)


def test_an_event_that_was_stored_before_is_counted_as_such() -> None:
    with an_http_target(REPEATED) as server:
        assert _send(server)[0] == ("stored before", "")


def test_a_busy_server_gets_the_same_key_again_after_retry_after() -> None:
    with an_http_target(BUSY, Answer(429, b"", (("Retry-After", "1"),)), STORED) as server:
        assert _send(server) == (("stored", ""), [7.0, 1.0])
    assert len({call.headers["Idempotency-Key"] for call in server.calls}) == 1


def test_a_refused_event_is_reported_with_the_problem_detail() -> None:
    with an_http_target(INVALID) as server:
        assert _send(server) == (("refused", "event is missing (422)"), [])


def test_sending_stops_when_the_server_is_always_busy() -> None:
    with (
        an_http_target(BUSY) as server,
        pytest.raises(GaveUp, match=r"cannot be reached right now\. \(503\), after 8 attempts"),
    ):
        _send(server)
    assert len(server.calls) == MAX_ATTEMPTS


@pytest.mark.parametrize(("answer", "code"), [(None, 3), (Answer(401, b"{}"), 1)])
def test_the_exit_code_says_whether_the_same_command_may_work_later(
    signalbox: CommandLine, three: Path, answer: Answer | None, code: int
) -> None:
    with an_http_target(*filter(None, [answer])) as server:
        result = signalbox(*_command(server, three)) if answer else None
    result = result or signalbox(*_command(server, three))
    assert (result.exit_code, result.stdout) == (code, "nothing sent\n")


def test_a_server_that_has_never_responded_is_given_up_after_two_attempts() -> None:
    with an_http_target() as server:
        pass
    pauses: list[float] = []
    sender = Sender(server.url, "t", 7, sleep=pauses.append)
    with pytest.raises(ServerUnavailable, match=rf"cannot connect to {server.url}: .*refused, after 2 attempts"):
        sender.send(Entry(0, 1, b"{}"))
    assert len(pauses) == 1


def test_a_server_that_has_responded_gets_all_attempts() -> None:
    notes: list[str] = []
    with an_http_target(STORED) as server:
        sender = Sender(server.url, "t", 7, sleep=lambda seconds: None, notify=notes.append)
        assert sender.send(Entry(0, 1, b"{}")) == ("stored", "")
    sender.close()
    with pytest.raises(ServerUnavailable, match=r"refused, after 8 attempts"):
        sender.send(Entry(1, 2, b"{}"))
    assert len(notes) == MAX_ATTEMPTS - 1
    assert all(note.startswith(f"cannot connect to {server.url}: ") for note in notes)


def test_connecting_has_a_shorter_time_out_than_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[object] = []

    def refuse(address: object, timeout: object, *_: object) -> None:
        timeouts.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr("socket.create_connection", refuse)
    sender = Sender("http://192.0.2.1", "t", 7, sleep=lambda seconds: None)
    with pytest.raises(ServerUnavailable, match=r"cannot connect to http://192\.0\.2\.1: timed out, after 2 attempts"):
        sender.send(Entry(0, 1, b"{}"))
    assert timeouts == [CONNECT_TIMEOUT] * 2
    assert CONNECT_TIMEOUT <= 5


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
def test_an_error_for_all_events_stops_sending_at_once(status: int) -> None:
    with an_http_target(Answer(status, b"{}")) as server, pytest.raises(GaveUp, match=f"status {status}"):
        _send(server)
    assert len(server.calls) == 1


def test_pauses_grow_and_end() -> None:
    for tried in range(1, 20):
        whole = min(30.0, 0.5 * 2 ** (tried - 1))
        assert whole / 2 <= pause_after(tried, None) <= whole
    assert (pause_after(1, 3.0), pause_after(1, 86_400.0)) == (3.0, 60.0)


# The command


def _command(server: HttpTarget, file: Path) -> tuple[object, ...]:
    return ("event", "send", file, "--url", server.url, "--token", "sb_hush", "--account-id", 7)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A file with three events; between them there is an empty line."""
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join([json.dumps(an_event()), "", json.dumps(an_event(event=...)), json.dumps(an_event())]))
    return file


def test_a_summary_counts_the_outcomes_of_the_events(signalbox: CommandLine, three: Path) -> None:
    with an_http_target(STORED, REPEATED, STORED) as server:
        result = signalbox(*_command(server, three))
    assert (result.exit_code, result.output) == (0, "3 sent: 2 stored, 1 stored before\n")


def test_a_refused_event_is_reported_with_its_line_and_exit_code_1(signalbox: CommandLine, three: Path) -> None:
    with an_http_target(STORED, INVALID, STORED) as server:
        result = signalbox(*_command(server, three))
    assert (result.exit_code, result.stdout) == (1, "3 sent: 2 stored, 1 refused\n")
    assert result.stderr == "line 3: event is missing (422)\n"


def test_giving_up_is_reported_with_the_line_and_without_the_token(signalbox: CommandLine, three: Path) -> None:
    with an_http_target(STORED, Answer(401, b'{"detail": "The API key is missing or not valid."}')) as server:
        result = signalbox(*_command(server, three))
    assert (result.exit_code, result.stdout) == (1, "1 sent: 1 stored\n")
    assert "gave up at line 3: The API key is missing or not valid. (401)" in result.stderr
    assert "hush" not in result.output


def test_standard_input_can_be_sent(signalbox: CommandLine) -> None:
    with an_http_target(STORED) as server:
        result = signalbox(*_command(server, Path("-")), typed=json.dumps([an_event(), an_event()]))
    assert result.stdout == "2 sent: 2 stored\n"
    assert len(server.calls) == 2


def test_a_file_without_events_is_reported_in_one_line(signalbox: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("event,distinct_id\n")
    with an_http_target() as server:
        result = signalbox(*_command(server, file))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {file}: expected a JSON object")
    assert server.calls == []


def test_equal_events_of_two_files_are_stored_twice_and_a_repeated_file_once(
    signalbox: CommandLine, tmp_path: Path
) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        file.write_text('{"event": "x"}\n\n{"event": "x"}\n')
    with an_http_target(STORED) as server:
        for file in (*files, *files):
            signalbox(*_command(server, file))
    keys = [call.headers["Idempotency-Key"] for call in server.calls]
    assert len(set(keys[:4])) == 4
    assert keys[:4] == keys[4:]


def test_a_file_is_the_same_by_whatever_name_it_is_called(
    signalbox: CommandLine, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(three)
    monkeypatch.chdir(tmp_path)
    with an_http_target(STORED) as server:
        for name in (three, Path(three.name), Path("link")):
            signalbox(*_command(server, name))
    assert len({call.headers["Idempotency-Key"] for call in server.calls}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--url", "localhost:8000", "--token", "t"], "Error: Invalid value for --url: 'localhost:8000' is not a URL"),
        (
            ["--url", "http://localhost", "--token", "t\n"],
            "Error: Invalid value for --token (or SIGNALBOX_TOKEN): an API key",
        ),
        (["--url", "http://localhost"], "Error: Missing option '--token' (env var: 'SIGNALBOX_TOKEN')."),
        (["--token", "t"], "Error: Missing option '--url'."),
    ],
)
def test_the_error_names_the_invalid_option(signalbox: CommandLine, options: list[str], message: str) -> None:
    result = signalbox("event", "send", "-", "--account-id", 7, *options)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(message)


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "check --token or SIGNALBOX_TOKEN"), (403, "the account of --account-id")],
)
def test_a_refused_key_is_reported_with_its_source(signalbox: CommandLine, three: Path, status: int, hint: str) -> None:
    with an_http_target(Answer(status, b"{}")) as server:
        result = signalbox(*_command(server, three))
    assert result.exit_code == 1
    assert f"gave up at line 1: status {status}; " in result.stderr
    assert hint in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_odd_path_is_sent_as_one(signalbox: CommandLine, three: Path) -> None:
    with an_http_target(STORED) as server:
        words = ("event", "send", three, "--url", f"{server.url}/ü", "--token", "t", "--account-id", 7)
        assert signalbox(*words).exit_code == 0
    assert server.calls[0].path == "/%C3%BC/api/v1/cvf-events"


def test_a_server_that_accepts_connections_and_never_responds_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_sender, "FIRST_TIMEOUT", 0.1)
    reasons: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        sender = Sender(url, "sb_x", 1, sleep=lambda seconds: None, notify=reasons.append)
        with pytest.raises(ServerUnavailable, match=r"no response from .*: timed out, after 2 attempts"):
            sender.send(Entry(0, 1, b"{}"))
    assert reasons == [f"no response from {url}: timed out"]
    assert FIRST_TIMEOUT <= 10
