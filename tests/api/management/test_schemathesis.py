"""Schemathesis calls every operation of the management API with generated requests, valid and not, and follows the links."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask

from app.api import bearer_limit
from app.core.models import ACCOUNT_MANAGE, OPERATOR
from app.services.context import AppContext
from tests.support.management import PREFIX, a_manager, fill, served
from tests.support.server import clean_environment

ROOT = Path(__file__).resolve().parents[3]
MAX_EXAMPLES = 2
# Statuses of valid requests: also a workflow that exists (409), another ETag (412), and an If-Match without one (428).
ACCEPTED = ["2xx", "3xx", "401", "403", "404", "409", "412", "428", "429"]
# What JSON Schema cannot say of their bodies: documents are programs, and names have printable characters only.
BEYOND_SCHEMA = (
    "create_key",
    "create_workflow",
    "change_workflow",
    "enable_workflow",
    "create_source",
    "change_source",
    "try_source",
    "try_delivery",
    "list_targets",
    "create_secret",
    "set_secret",
    "create_integration",
    "change_integration",
    "list_events",
    "try_workflow",
    "backtest_workflow",
    "simulate_workflow",
    "test_source",
    "change_account",
    "change_retention",
    "create_account",
    "create_user",
    "create_client",
)


def _config(token: str, values: dict[str, str]) -> str:
    """The configuration of Schemathesis: in half of the requests the parameters of the path lead to something."""
    accepted, beyond = json.dumps(ACCEPTED), json.dumps([*ACCEPTED, "422"])
    lines = [
        f"parameters.{json.dumps(f'path.{name}')} = {{ dictionary = {json.dumps(name)}, probability = 0.5 }}"
        for name in values
    ]
    # A NUL in a URL is refused, which test_requests.py tests.
    lines.append("generation.allow-x00 = false")
    lines.append(f"auth.openapi.bearer.bearer = {json.dumps(token)}")
    lines.insert(0, 'hooks = "tests.support.schemathesis_hooks"')
    for name, value in values.items():
        lines.append(f"dictionaries.{name}.values = [{value if value.isdigit() else json.dumps(value)}]")
    lines += [
        f"checks.positive_data_acceptance.expected-statuses = {accepted}",
        'checks.missing_required_header.expected-statuses = ["400", "401", "403", "404", "422", "428"]',
    ]
    for name in BEYOND_SCHEMA:
        lines += [
            "[[operations]]",
            f"include-operation-id = {json.dumps(name)}",
            f"checks.positive_data_acceptance.expected-statuses = {beyond}",
        ]
    return "\n".join(lines)


def test_every_operation_keeps_its_promises(
    app: Flask, context: AppContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearer_limit, "MAX_PER_MINUTE", 10**6)
    manager = a_manager(context, app, "acme", ACCOUNT_MANAGE, OPERATOR)
    config = tmp_path / "schemathesis.toml"
    config.write_text(_config(manager.token, fill(context, manager)), "utf-8")
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    options = [
        f"--include-path-regex=^{PREFIX}/",
        f"--max-examples={MAX_EXAMPLES}",
        "--generation-deterministic",
        "--continue-on-failure",
        "--checks=all",
        # A hash of a password takes seconds on a busy machine.
        "--request-timeout=60",
    ]
    environment = clean_environment(PYTHONPATH=str(ROOT))
    with served(app) as url:
        done = subprocess.run(
            [*program, f"{url}/openapi.json", *options],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1_800,
        )
    assert done.returncode == 0, done.stdout + done.stderr
