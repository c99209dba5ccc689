"""The log: nothing personal, and in an outage one line a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa
from structlog import DropEvent

from app.core.config import SettingsError
from app.core.errors import Unavailable
from app.core.log_config import OncePerSecond, describe_exception, format_exception
from tests.support.server import clean_environment

ROOT = Path(__file__).resolve().parents[2]
PHONE = "+915673412780"


def _passes(limit: OncePerSecond, message: str, *, level: str = "error") -> dict[str, object] | None:
    try:
        return dict(limit(None, level, {"event": message}))
    except DropEvent:
        return None


def test_a_message_passes_once_a_second_and_counts_those_that_were_dropped() -> None:
    now = 100.0
    limit = OncePerSecond(lambda: now)
    assert _passes(limit, "gone") == {"event": "gone"}
    now = 100.9
    assert [_passes(limit, "gone") for _ in range(3)] == [None, None, None]
    assert _passes(limit, "other") == {"event": "other"}
    now = 101.0
    assert _passes(limit, "gone") == {"event": "gone", "suppressed": 3}
    now = 102.5
    assert _passes(limit, "gone") == {"event": "gone"}


def test_what_is_no_warning_always_passes() -> None:
    limit = OncePerSecond(lambda: 1.0)
    assert [_passes(limit, "workflow log", level="info") for _ in range(3)] == [{"event": "workflow log"}] * 3


def _raised(statement: str) -> Exception:
    try:
        exec(statement, {"PHONE": PHONE, "psycopg2": psycopg2, "sa": sa})
    except Exception as exc:
        return exc
    raise AssertionError(statement)


@pytest.mark.parametrize(
    ("statement", "described"),
    [
        ("raise ValueError(f'{PHONE} is no number')", "ValueError"),
        ("{}[PHONE]", "KeyError"),
        ("int(PHONE + 'x')", "ValueError"),
        ("raise psycopg2.DataError(PHONE)", "DataError"),
        ("raise sa.exc.IntegrityError('INSERT …', {'phone': PHONE}, Exception(PHONE))", "IntegrityError"),
    ],
)
def test_a_traceback_shows_types_and_lines_and_no_message(statement: str, described: str) -> None:
    try:
        raise RuntimeError(PHONE) from _raised(statement)
    except RuntimeError as exc:
        text = format_exception(exc)
    assert PHONE not in text
    assert f".{described}" in text
    assert text.endswith("builtins.RuntimeError")
    assert text.count("Traceback (most recent call last):") == 2
    assert "test_log_config.py" in text


@pytest.mark.parametrize(
    ("exc", "described"),
    [
        (Unavailable("connection refused\nDETAIL: more"), "connection refused"),
        (SettingsError("ENCRYPTION_KEY is not set"), "ENCRYPTION_KEY is not set"),
        (FileNotFoundError(2, "No such file", "/x"), "[Errno 2] No such file: '/x'"),
        (ValueError(PHONE), "ValueError"),
        (Unavailable(), "Unavailable"),
    ],
)
def test_an_exception_is_described_in_one_line(exc: Exception, described: str) -> None:
    assert describe_exception(exc) == described


def test_an_error_of_postgres_has_its_code(database_url: str) -> None:
    engine = sa.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(database_url))
    with engine.connect() as connection, pytest.raises(sa.exc.DataError) as raised:
        connection.execute(sa.text("SELECT CAST(:phone AS uuid)"), {"phone": PHONE})
    assert describe_exception(raised.value) == "DataError 22P02"
    assert PHONE not in format_exception(raised.value)


OUTAGE = """
import json
from app import create_app
client = create_app().test_client()
headers = {"x-limechat-uat": "sb_abcdefgh_" + "x" * 43, "x-fb-account-id": "1"}
body = {"event": "e", "phone": "+915673412780", "distinct_id": "915673412780"}
statuses = [client.post("/api/v1/cvf-events", json=body, headers=headers).status_code for _ in range(100)]
statuses += [client.get("/health").status_code for _ in range(100)]
print(json.dumps(sorted(set(statuses))))
"""


def test_in_an_outage_requests_do_not_write_a_line_each() -> None:
    environment = clean_environment(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", OUTAGE], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert 503 in json.loads(done.stdout)
    assert {line["event"] for line in lines} == {"database unavailable"}
    seconds = [line["timestamp"][:19] for line in lines]
    # A second of the clock has at most two lines that are a second apart.
    assert max(map(seconds.count, seconds)) <= 2
    assert len(lines) < 50
    assert "915673412780" not in done.stderr


LIBRARIES = """
import asyncio, logging, sys
from app.core import config, log_config
log_config.configure(config.from_environment())
logging.getLogger("asyncio").error("Task exception was never retrieved\\nfuture: +915673412780")
for _ in range(3):
    logging.getLogger("sqlalchemy.pool").error("lost %s", "one")
log = logging.getLogger("other")
log.info("not shown")
log.warning("shown")
try:
    raise ValueError("+915673412780")
except ValueError:
    log.exception("failed")
"""


def test_what_libraries_log_is_json_too_and_quotes_nothing() -> None:
    environment = clean_environment(PYTHONPATH=str(ROOT), DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    done = subprocess.run(
        [sys.executable, "-c", LIBRARIES], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("Task exception was never retrieved", "error"),
        ("lost one", "error"),
        ("shown", "warning"),
        ("failed", "error"),
    ]
    assert lines[-1]["exception"].endswith("builtins.ValueError")
    assert "915673412780" not in done.stderr


def test_a_logger_outlives_a_redirection_of_standard_error() -> None:
    script = (
        "import contextlib, io, structlog\n"
        "from app.core import config, log_config\n"
        "log_config.configure(config.from_environment())\n"
        "log = structlog.get_logger()\n"
        "with io.StringIO() as other, contextlib.redirect_stderr(other):\n"
        "    log.error('first')\n"
        "    assert 'first' in other.getvalue()\n"
        "log.error('second')\n"
    )
    environment = clean_environment(PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["second"]
