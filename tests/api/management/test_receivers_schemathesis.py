"""Schemathesis calls every operation of the receivers with generated requests.

Their rules go beyond JSON Schema: what they accept and refuse is not compared with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask

from app.api import bearer_limit
from app.services.context import AppContext
from tests.api.management.test_document import DOCUMENT
from tests.support.builders import a_sender
from tests.support.management import PREFIX, served
from tests.support.receivers import IDS, Receivers, fill_receivers
from tests.support.server import clean_environment

ROOT = Path(__file__).resolve().parents[3]
MAX_EXAMPLES = 3
# Phone numbers, patterns, Mustache, URLs and CSV have rules of their own, and a missing account is reported after the key.
LEFT_OUT = ("negative_data_rejection", "positive_data_acceptance", "missing_required_header")


def _config(filled: Receivers) -> str:
    """The configuration: how requests are authenticated, and what most parameters of paths lead to."""
    known = {"tenant": filled.sender.slug, "token": filled.source_token}
    lines = [
        'hooks = "tests.support.schemathesis_hooks"',
        "generation.allow-x00 = false",
        f"auth.openapi.bearer.bearer = {json.dumps(filled.token)}",
        f"auth.openapi.limechat.api_key = {json.dumps(filled.sender.token)}",
        f"auth.openapi.client.username = {json.dumps(filled.client_id)}",
        f"auth.openapi.client.password = {json.dumps(filled.client_secret)}",
    ]
    lines.append(f"dictionaries.name.values = {json.dumps(sorted(IDS.values()))}")
    for name in (*known, "name"):
        lines.append(
            f"parameters.{json.dumps(f'path.{name}')} = {{ dictionary = {json.dumps(name)}, probability = 0.8 }}"
        )
    account = json.dumps(str(filled.sender.account_id))
    lines.append('parameters."header.x-fb-account-id" = { dictionary = "account", probability = 0.8 }')
    lines += [f"dictionaries.{name}.values = [{json.dumps(value)}]" for name, value in known.items()]
    lines.append(f"dictionaries.account.values = [{account}]")
    return "\n".join(lines)


def test_every_operation_of_the_receivers_answers_as_documented(
    app: Flask, context: AppContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearer_limit, "MAX_PER_MINUTE", 10**6)
    config = tmp_path / "schemathesis.toml"
    config.write_text(_config(fill_receivers(context, a_sender(context, app.test_client()), DOCUMENT)), "utf-8")
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    options = [
        f"--exclude-path-regex=^{PREFIX}/",
        f"--max-examples={MAX_EXAMPLES}",
        "--generation-deterministic",
        "--continue-on-failure",
        "--checks=all",
        f"--exclude-checks={','.join(LEFT_OUT)}",
    ]
    with served(app) as url:
        done = subprocess.run(
            [*program, f"{url}/openapi.json", *options],
            cwd=tmp_path,
            env=clean_environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, done.stdout + done.stderr
