"""A short soak: nothing is lost, doubled or left over while retention deletes. Times and sizes are for `make soak`."""

from __future__ import annotations

import pytest

from bench import soak


def test_a_short_soak_loses_doubles_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAK_SECONDS", "8")
    monkeypatch.setattr(soak, "RATE", 50)
    monkeypatch.setattr(soak, "SLICE_SECONDS", 4)
    monkeypatch.setattr(soak, "EXPIRED_AT_BEGIN", 6_000)
    rows = {row["name"]: row for row in soak.soak()}
    assert list(rows) == ["soak-memory", "soak-queue", "soak-tables"]
    assert rows["soak-memory"].get("failures", []) == []
    assert rows["soak-memory"]["ours"] > 0
