"""Fixtures for the tests of actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from app import actions
from app.actions import log


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The log entries of actions, at any level and with any earlier configuration."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()
    for module in (actions, log):
        monkeypatch.setattr(module, "_log", structlog.get_logger())
    with structlog.testing.capture_logs() as found:
        yield found
    if before is not None:
        structlog.configure(**before)
