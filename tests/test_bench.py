"""The arithmetic of the benchmarks: when a target is reached, what a table shows, how wrk's output is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import api, console
from bench.measuring import Load, latency, p99, read_wrk, steal_share
from bench.rows import Row, broken, limited, row, table
from tests.console.test_access import CONSOLE

WRK = """
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.01ms    2.31ms  31.02ms   99.12%
  Latency Distribution
     50%    4.93ms
     99%    1.02s
  4475 requests in 3.00s, 673.00KB read
"""
WITH_ERRORS = WRK + "  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 5\n"


def test_wrk_s_words_are_read() -> None:
    assert read_wrk(WRK) == (4475, 0)
    assert read_wrk(WITH_ERRORS) == (4475, 12)
    assert (latency(WRK, "50%"), latency(WRK, "99%")) == (4.93, 1020.0)


def test_steal_is_a_share_of_all_time() -> None:
    assert steal_share([0] * 8, [40, 0, 10, 30, 0, 0, 0, 20]) == 0.2
    assert steal_share([0] * 8, [0] * 8) == 0


def test_a_load_has_a_cost_per_request_by_part() -> None:
    one = Load(requests=1_000, errors=0, seconds=2.0, cpu={"web": 0.3, "postgres": 0.1})
    assert (one.rate, round(one.cpu_per_request), round(one.share("web"))) == (500, 400, 300)
    assert p99(range(1, 201)) == 199


def test_a_row_is_ok_from_its_target_on() -> None:
    assert row("single", ours=500, reference=300, ratio=0.6, target=0.6, unit="µs")["ok"]
    assert not row("single", ours=501, reference=300, ratio=0.599, target=0.6, unit="µs")["ok"]
    assert row("runs", ours=500, unit="runs/s")["ok"]
    assert limited("latency", 4.9, 5.0, unit="ms")["ok"]
    assert not limited("latency", 5.1, 5.0, unit="ms")["ok"]


def test_a_failure_makes_any_row_fail() -> None:
    assert not row("single", ours=1, reference=9, ratio=9.0, target=0.6, unit="µs", failures=["2 errors"])["ok"]
    assert not broken("batch", ValueError("gone"))["ok"]


def test_the_table_shows_targets_and_failures() -> None:
    text = table([row("runs", ours=500, unit="runs/s"), broken("batch", ValueError("gone"))])
    assert "none  yes" in text
    assert "FAILED: it raised ValueError: gone" in text


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for the results, and two benchmarks that measure nothing."""

    def gone() -> list[Row]:
        raise ValueError("gone")

    def fine() -> list[Row]:
        return [row("fine", ours=1, reference=2, ratio=2.0, target=0.5, unit="µs")]

    monkeypatch.setattr(command, "RESULTS", tmp_path / "results" / "latest.json")
    monkeypatch.setattr(command, "BENCHMARKS", {"fine": fine, "gone": gone})
    return tmp_path / "results" / "latest.json"


def test_the_results_are_written_with_the_machine_and_the_versions(results: Path) -> None:
    assert command.main(["fine"]) == 0
    found: Mapping[str, object] = json.loads(results.read_text())
    assert set(found) == {"machine", "versions", "rows"}
    (one,) = found["rows"]  # type: ignore[misc]
    assert {name: one[name] for name in ("name", "ours", "reference", "ratio", "target", "ok")} == {
        "name": "fine",
        "ours": 1,
        "reference": 2,
        "ratio": 2.0,
        "target": 0.5,
        "ok": True,
    }


def test_the_pages_of_the_console_that_get_a_query_are_pages() -> None:
    assert console._QUERIES.keys() <= {rule.endpoint for rule in CONSOLE.url_map.iter_rules()}


def test_a_benchmark_that_raises_stops_no_other(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["gone", "fine"]) == 1
    assert [one["name"] for one in json.loads(results.read_text())["rows"]] == ["gone", "fine"]
    assert "FAILED" in capsys.readouterr().out


def test_an_unknown_name_runs_nothing(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["fine", "grwon"]) == 2
    assert "there are fine, gone" in capsys.readouterr().err
    assert not results.exists()


def test_every_list_of_the_management_api_is_measured_with_each_filter() -> None:
    from tests.api.management.test_document import DOCUMENT

    found = list(api.paths(DOCUMENT, {"workflow": "watch"}))
    assert {"/api/v1/manage/keys", "/api/v1/manage/runs?status=failed", "/api/v1/manage/runs?workflow=watch"} <= set(
        found
    )
    assert [path for path in found if "{" in path] == []
