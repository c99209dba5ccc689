"""`signalbox event import` stores past events unchanged and once, and skips invalid lines."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core.ids import timestamp_of, uuid7
from app.db import inspection
from app.db.audit import EntryFilter
from app.ingest.history_import import survey
from app.services import audit, workflows
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.command_lines import SIGNALBOX

ROOT = Path(__file__).resolve().parents[2]
Stored = list[dict[str, Any]]


def stored(context: AppContext, sender: Sender) -> Stored:
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(
            "SELECT *, data::text AS data_text, tableoid::regclass::text AS partition FROM events "
            "WHERE account_id = %(account)s ORDER BY id",
            {"account": sender.account_id},
        )
        return [dict(row) for row in rows.mappings()]


def past(timestamp: Any = "2024-03-05T10:00:00.123456Z", **changes: Any) -> dict[str, Any]:
    return an_event(received_at=timestamp, **changes)


def write(path: Path, lines: list[Any]) -> Path:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path


def test_events_are_stored_at_their_own_time_in_the_partitions_of_their_months(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    lines = [past(), past("2023-11-30T23:59:59+00:00"), past("2024-03-05T12:30:00+02:00", event="other")]
    result = signalbox("event", "import", write(tmp_path / "old.ndjson", lines), "--account", acme.slug)
    assert (result.exit_code, result.stdout) == (0, "3 stored, 0 stored before, 0 rejected\n")
    found = stored(context, acme)
    assert [row["received_at"].isoformat() for row in found] == [
        "2023-11-30T23:59:59+00:00",
        "2024-03-05T10:00:00.123456+00:00",
        "2024-03-05T10:30:00+00:00",
    ]
    assert [row["partition"] for row in found] == ["events_2023_11", "events_2024_03", "events_2024_03"]
    assert [timestamp_of(row["id"]) for row in found] == [row["received_at"] for row in found]
    assert {row["decisions"] for row in found} == {None}
    assert not (tmp_path / "old.rejected.ndjson").exists()


def test_a_byte_order_mark_in_front_of_any_line_is_ignored(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    lines = ["\ufeff".encode() + json.dumps(past(event=name)).encode() for name in ("one", "two")]
    signalbox("event", "import", write(tmp_path / "old.ndjson", lines), "--account", acme.slug)
    assert {row["event"] for row in stored(context, acme)} == {"one", "two"}


def test_imported_events_equal_posted_ones_otherwise(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    odd = json.dumps(an_event(event="a b\t\\", distinct_id=..., more={"x": 1})).replace(
        '"65432"', "12345678901234567890.10"
    )
    assert acme.post(odd).status_code == 200
    line = odd[:-1] + ', "received_at": "2024-03-05"}'
    signalbox("event", "import", write(tmp_path / "old.ndjson", [line.encode()]), "--account", acme.slug)
    columns = ("event", "distinct_id", "phone", "data_text", "extra", "warnings", "idempotency_key")
    old, new = ({name: row[name] for name in columns} for row in stored(context, acme))
    assert old == new
    assert "12345678901234567890.10" in old["data_text"]


def test_the_same_file_again_adds_nothing_and_equal_lines_are_events_of_their_own(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    lines = [past(), past(event="other"), past(), past()]
    file = write(tmp_path / "old.ndjson", lines)
    first, second = (signalbox("event", "import", file, "--account", acme.slug).stdout for _ in range(2))
    assert (first, second) == ("4 stored, 0 stored before, 0 rejected\n", "0 stored, 4 stored before, 0 rejected\n")
    write(file, [*lines, past(), past(event="new")])
    third = signalbox("event", "import", file, "--account", acme.slug).stdout
    assert third == "2 stored, 4 stored before, 0 rejected\n"
    assert len(stored(context, acme)) == 6


def test_accounts_do_not_share_what_they_import(
    signalbox: CommandLine, context: AppContext, acme: Sender, globex: Sender, tmp_path: Path
) -> None:
    file = write(tmp_path / "old.ndjson", [past()])
    for sender in (acme, globex):
        assert "1 stored" in signalbox("event", "import", file, "--account", sender.slug).stdout
    assert stored(context, acme)[0]["id"] != stored(context, globex)[0]["id"]


BAD: list[tuple[bytes, str]] = [
    (b"{", "The line is not JSON: "),
    (b'{"event": "\xff"}', "The line is not UTF-8"),
    (b"[]", "The top level is an array"),
    (json.dumps(an_event()).encode(), "received_at is missing"),
    (json.dumps(past("yesterday")).encode(), "received_at is no time such as"),
    (json.dumps(past(True)).encode(), "received_at must be a time"),
    (json.dumps(past(None)).encode(), "received_at must be a time"),
    (json.dumps(past("1999-12-31")).encode(), "from 2000 to now"),
    (json.dumps(past("2999-01-01")).encode(), "from 2000 to now"),
    (json.dumps(past("0001-01-01T00:00:00+14:00")).encode(), "received_at"),
    (json.dumps(past(10**30)).encode(), "received_at"),
    (json.dumps(past(event="")).encode(), "event has 0 characters"),
    (json.dumps(past(phone="123")).encode(), "phone must begin with +"),
    (json.dumps(past(data={"a": "\0"})).encode(), "NUL"),
    (json.dumps(past(idempotency_key="é")).encode(), "idempotency_key must be"),
    (json.dumps(past(data={"a": "x" * 600_000})).encode(), "is larger than 524288 bytes"),
]


def test_bad_lines_go_to_a_file_with_the_reason_and_stop_nothing(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    lines = [part for text, _ in BAD for part in (text, b"")]
    file = write(tmp_path / "old.ndjson.gz", [past(), *lines, past(event="last")])
    file.write_bytes(gzip.compress(file.read_bytes()))
    result = signalbox("event", "import", file, "--account", acme.slug)
    assert (result.exit_code, result.stdout) == (1, f"2 stored, 0 stored before, {len(BAD)} rejected\n")
    assert str(tmp_path / "old.rejected.ndjson") in result.stderr
    rejected = [json.loads(line) for line in (tmp_path / "old.rejected.ndjson").read_text().splitlines()]
    assert [entry["line"] for entry in rejected] == [2 + 2 * number for number in range(len(BAD))]
    for entry, (text, reason) in zip(rejected, BAD, strict=True):
        assert reason in entry["reason"]
        assert entry["text"] in (None, text.decode(errors="backslashreplace"))
    assert {row["event"] for row in stored(context, acme)} == {"product_view", "last"}


def test_the_file_of_rejected_lines_is_removed_when_no_line_is_rejected(
    signalbox: CommandLine, acme: Sender, tmp_path: Path
) -> None:
    file = write(tmp_path / "old.jsonl", [past(), b"{"])
    assert signalbox("event", "import", file, "--account", acme.slug).exit_code == 1
    write(file, [past(), past(event="mended")])
    assert signalbox("event", "import", file, "--account", acme.slug).stdout.startswith("1 stored, 1 stored before")
    assert not (tmp_path / "old.rejected.ndjson").exists()


@pytest.mark.parametrize(
    ("field", "line", "extra"),
    [
        ("data.at", an_event(data={"at": "2024-03-05T10:00:00Z"}), None),
        ("data.deep.at", an_event(data={"deep": {"at": 1709632800}}), None),
        ("ts", an_event(ts=1709632800.0), None),
        ("ts", an_event(ts=1709632800000), None),
        ("ts", an_event(ts=1709632800000000, received_at="kept"), {"received_at": "kept"}),
    ],
)
def test_the_time_may_be_in_another_field(
    signalbox: CommandLine,
    context: AppContext,
    acme: Sender,
    tmp_path: Path,
    field: str,
    line: dict[str, Any],
    extra: Any,
) -> None:
    file = write(tmp_path / "old.ndjson", [line])
    assert signalbox("event", "import", file, "--time-field", field, "--account", acme.slug).exit_code == 0
    (row,) = stored(context, acme)
    assert row["received_at"] == datetime(2024, 3, 5, 10, tzinfo=UTC)
    assert (row["data"], row["extra"]) == (line["data"], extra)


def test_a_line_may_say_when_the_event_happened_beside_when_it_was_received(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    lines = [past(occurred_at="2024-03-05T09:59:00Z"), past(event="b"), past(event="c", occurred_at="soon")]
    signalbox("event", "import", write(tmp_path / "old.ndjson", lines), "--account", acme.slug)
    found = {row["event"]: (row["occurred_at"], row["extra"]) for row in stored(context, acme)}
    assert found == {
        "product_view": (datetime(2024, 3, 5, 9, 59, tzinfo=UTC), None),
        "b": (None, None),
        "c": (None, {"occurred_at": "soon"}),
    }


def test_the_time_may_be_a_number_with_more_digits_than_a_double_has(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    line = json.dumps(past(0)).replace('"received_at": 0', '"received_at": 1709632800.12345649999999999')
    signalbox("event", "import", write(tmp_path / "old.ndjson", [line.encode()]), "--account", acme.slug)
    (row,) = stored(context, acme)
    assert row["received_at"] == datetime(2024, 3, 5, 10, 0, 0, 123_456, tzinfo=UTC)


@pytest.mark.parametrize("sent", ["2024-03-05T10:00:00Z", "2024-03-05T10:00:00", 1709632800])
def test_one_field_may_be_both_times(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path, sent: Any
) -> None:
    file = write(tmp_path / "old.ndjson", [an_event(occurred_at=sent)])
    signalbox("event", "import", file, "--time-field", "occurred_at", "--account", acme.slug)
    (row,) = stored(context, acme)
    assert row["received_at"] == row["occurred_at"] == datetime(2024, 3, 5, 10, tzinfo=UTC)
    assert (row["extra"], row["warnings"]) == (None, None)


def test_an_invalid_field_name_is_refused(signalbox: CommandLine, acme: Sender, tmp_path: Path) -> None:
    file = write(tmp_path / "old.ndjson", [past()])
    result = signalbox("event", "import", file, "--time-field", "a..b", "--account", acme.slug)
    assert (result.exit_code, "is not a field" in result.stderr) == (2, True)


def test_an_idempotency_key_identifies_one_event(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    posted = acme.post(an_event(), Idempotency_Key="posted").json["id"]  # type: ignore[attr-defined]
    recent = (context.clock() - timedelta(hours=1)).isoformat()
    lines = [
        past(recent, idempotency_key="posted"),
        past(recent, idempotency_key="k"),
        past(recent, idempotency_key="k", data={"other": "spelling"}),
        past(idempotency_key="old"),
        past(idempotency_key="old"),
    ]
    file = write(tmp_path / "old.ndjson", lines)
    first, second = (signalbox("event", "import", file, "--account", acme.slug).stdout for _ in range(2))
    assert (first[:24], second[:24]) == ("2 stored, 3 stored befor", "0 stored, 5 stored befor")
    assert {row["idempotency_key"] for row in stored(context, acme)} == {"posted", "k", "old"}
    assert str(stored(context, acme)[-1]["id"]) == posted


def test_runs_start_only_on_request_and_once(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"seq": ["a", "b"]}))
    lines = [past(f"2024-03-05T10:00:0{second}Z", event=name) for second, name in ((2, "b"), (1, "a"), (3, "b"))]
    file = write(tmp_path / "old.ndjson", lines)
    signalbox("event", "import", file, "--account", acme.slug)
    assert runs_of(context, acme) == []
    outputs = [signalbox("event", "import", file, "--start-workflows", "--account", acme.slug).stdout for _ in range(2)]
    assert [output.rpartition(", ")[2] for output in outputs] == ["1 runs started\n", "0 runs started\n"]
    ids = [str(row["id"]) for row in stored(context, acme)]
    assert runs_of(context, acme) == [ids[:2]]


def test_an_import_has_one_entry_in_the_audit_log_and_none_when_it_adds_nothing(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    file = write(tmp_path / "old.ndjson", [past(f"2024-03-05T10:00:0{second}Z") for second in range(3)])
    for name in ("one", "two"):
        workflows.apply_workflow(context, acme.account_id, a_workflow(name=name))
    signalbox("event", "import", file, "--account", acme.slug)
    signalbox("event", "import", file, "--account", acme.slug)
    expected = {"file": "old.ndjson", "lines": 3, "time_field": "received_at", "start_workflows": False}
    wanted = EntryFilter(acme.account_id, action="event")
    assert [(one.action, one.after) for one in audit.list_entries(context, wanted, 10)] == [("event.import", expected)]
    # Six runs of two workflows.
    signalbox("event", "import", file, "--start-workflows", "--account", acme.slug)
    signalbox("event", "import", file, "--start-workflows", "--account", acme.slug)
    assert len(runs_of(context, acme)) == 6
    assert [one.after for one in audit.list_entries(context, wanted, 10)] == [
        {**expected, "start_workflows": True},
        expected,
    ]


def runs_of(context: AppContext, sender: Sender) -> list[list[str]]:
    """What the runs of an account have matched."""
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(
            "SELECT matched::text[] FROM runs WHERE account_id = %(account)s", {"account": sender.account_id}
        )
        return [row[0] for row in rows]


def test_standard_input_can_be_imported(context: AppContext, acme: Sender, tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf" + json.dumps(past()).encode() + b"\n\n" + json.dumps(past(event="second")).encode()
    done = subprocess.run(
        [*COMMAND, "-", "--account", acme.slug], input=gzip.compress(text), cwd=tmp_path, env=_environment(context),
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == b"2 stored, 0 stored before, 0 rejected\n"
    assert len(stored(context, acme)) == 2


COMMAND = [*SIGNALBOX, "event", "import"]


def _environment(context: AppContext) -> dict[str, str]:
    known = {
        "DATABASE_URL": context.settings.database_url,
        "ENCRYPTION_KEY": ",".join(context.settings.encryption_keys),
    }
    return {**os.environ, **known, "PYTHONPATH": str(ROOT)}


def test_the_next_import_completes_a_killed_one(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    file = write(tmp_path / "old.ndjson", [past(data={"n": number % 9_000}) for number in range(12_000)])
    process = subprocess.Popen([*COMMAND, str(file), "--account", acme.slug], env=_environment(context))
    while process.poll() is None and not stored(context, acme):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert stored(context, acme)
    signalbox("event", "import", file, "--account", acme.slug)
    assert len(stored(context, acme)) == 12_000
    assert signalbox("event", "import", file, "--account", acme.slug).stdout.startswith(
        "0 stored, 12,000 stored before"
    )


def test_an_import_that_waits_too_long_for_the_database_ends_with_exit_code_3(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "old.ndjson", [past()])
    # The month has a partition, for which nothing waits.
    assert signalbox("event", "import", file, "--account", acme.slug).exit_code == 0
    write(file, [past(event="second")])
    monkeypatch.setattr(inspection, "MAX_SLOW_SECONDS", 0.2)
    with context.database.transaction() as connection:
        connection.exec_driver_sql("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
        result = signalbox("event", "import", file, "--account", acme.slug)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.endswith("Import the same file again: stored events are not stored twice\n")


@pytest.mark.parametrize("content", [gzip.compress(b"{}\n" * 50, mtime=0)[:-12], b"\x1f\x8bnonsense"])
def test_a_broken_gzip_file_is_reported_in_one_line(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "old.ndjson.gz"
    file.write_bytes(content)
    result = signalbox("event", "import", file, "--account", acme.slug)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot be read" in result.stderr
    assert stored(context, acme) == []


def test_an_empty_file_is_not_an_error(signalbox: CommandLine, acme: Sender, tmp_path: Path) -> None:
    file = write(tmp_path / "old.ndjson", [b"", b" "])
    result = signalbox("event", "import", file, "--account", acme.slug)
    assert (result.exit_code, result.stdout) == (0, "0 stored, 0 stored before, 0 rejected\n")


def test_a_survey_finds_all_duplicates() -> None:
    lines = [(number, str(number % 5_000).encode()) for number in range(5_010)]
    count, repeated = survey([*lines, (6_000, None)])
    assert count == 5_011
    assert 10 <= len(repeated) < 20


def test_an_id_can_be_derived_from_time_and_content() -> None:
    timestamp = datetime(2024, 3, 5, tzinfo=UTC)
    assert uuid7(timestamp, b"12345678") == uuid7(timestamp, b"12345678") != uuid7(timestamp, b"12345679")
    assert timestamp_of(uuid7(timestamp, b"\xff" * 8)) == timestamp
