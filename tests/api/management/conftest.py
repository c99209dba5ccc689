"""Fixtures of the management API."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from app.api.management import workflow_trial
from app.services.context import AppContext
from tests.support.management import Manager, a_manager, fill


@pytest.fixture(autouse=True)
def patient_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials take the time that they need: on a busy machine they would be cut."""
    for name in ("_TRIAL_SECONDS", "_BACKTEST_SECONDS"):
        monkeypatch.setattr(workflow_trial, name, 300.0)


@pytest.fixture
def manager(context: AppContext, app: Flask) -> Manager:
    """An account with a key that may manage it."""
    return a_manager(context, app)


@pytest.fixture
def other(context: AppContext, app: Flask) -> Manager:
    """The account that must never see or change anything of the first."""
    return a_manager(context, app, "globex")


@pytest.fixture
def values(context: AppContext, manager: Manager) -> dict[str, str]:
    """The values of the parameters in paths, for which the manager's account has something."""
    return fill(context, manager)


@pytest.fixture(scope="session")
def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document."""
    found: dict[str, Any] = app.test_client().get("/openapi.json").get_json()
    return found
