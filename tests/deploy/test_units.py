"""The units in deploy/systemd: systemd accepts them, they are confined, and a gunicorn serves by their socket."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.config import from_environment
from app.worker import job_consumer
from tests.support.deploying_page import ROOT
from tests.support.systemd_units import settings_of

UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
# Of 10.0; systemd calls anything below 2.0 OK.
MAX_EXPOSURE = 1.5


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = str(Path(sys.executable).parent)
    for unit in UNITS:
        # systemd checks that the programs exist.
        text = unit.read_text("utf-8").replace("/srv/signalbox/current/.venv/bin", program)
        (tmp_path / unit.name).write_text(text)
    names = [unit.name.replace("@.", "@1.") for unit in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(f"./{name}" for name in names)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "signalbox" in line]
    assert ours == []


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: str(unit.name))
def test_a_service_is_confined(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE * 10:g}", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    assert found
    assert float(found[1]) <= MAX_EXPOSURE


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: str(unit.name))
def test_a_service_has_a_user_of_its_own_and_restarts(unit: Path) -> None:
    settings = settings_of(unit)
    expected = {"User": "signalbox", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "Restart": "always"}
    assert {name: settings[name] for name in expected} == expected


def test_systemd_waits_longer_than_gunicorn_for_requests_that_have_begun() -> None:
    web = settings_of(ROOT / "deploy" / "systemd" / "signalbox-web@.service")
    graceful_timeout = from_environment({"DATABASE_URL": "postgresql:///x"}).body_timeout + 5
    assert web["KillMode"] == "mixed"
    assert int(web["TimeoutStopSec"]) > graceful_timeout + 5


def test_systemd_waits_longer_than_a_worker_for_its_actions() -> None:
    worker = settings_of(ROOT / "deploy" / "systemd" / "signalbox-worker@.service")
    seconds = job_consumer._FINISH_TIMEOUT + 5 * job_consumer._LEAVE_TIMEOUT
    assert (worker["KillMode"], worker["OOMPolicy"]) == ("mixed", "continue")
    assert int(worker["TimeoutStopSec"]) > seconds


def test_nginx_and_the_units_agree_about_the_socket() -> None:
    path = settings_of(ROOT / "deploy" / "systemd" / "signalbox.socket")["ListenStream"]
    nginx = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
    assert f"server unix:{path};" in nginx
    assert settings_of(ROOT / "deploy" / "systemd" / "signalbox-web@.service")["Sockets"] == "signalbox.socket"
