"""Dockerfile and compose.yaml: what linters ask for, and that they agree with each other and with the units."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml

from tests.support.deploying_page import ROOT, followed_blocks
from tests.support.systemd_units import settings_of

# Instructions with their arguments; lines that are continued are joined.
INSTRUCTIONS = [
    tuple(line.split(" ", 1))
    for line in re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8")).splitlines()
    if line and not line.startswith("#")
]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "web", "worker")


def arguments_of(name: str) -> list[str]:
    return [arguments for instruction, arguments in INSTRUCTIONS if instruction == name]


def test_the_image_has_known_instructions_only() -> None:
    assert {name for name, _ in INSTRUCTIONS} == {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}


def test_every_base_image_has_a_tag() -> None:
    bases = [base.split(" ")[0] for base in arguments_of("FROM")]
    assert len(bases) == 2
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+", base) and not base.endswith(":latest") for base in bases)


def test_the_image_runs_as_a_user_without_rights() -> None:
    last = [name for name, _ in INSTRUCTIONS].index("USER")
    assert arguments_of("USER") == ["signalbox"]
    assert {name for name, _ in INSTRUCTIONS[last:]} == {"USER", "CMD"}


def test_packages_are_installed_without_more_and_their_lists_are_removed() -> None:
    commands = [command for command in arguments_of("RUN") if "apt-get install" in command]
    assert len(commands) == 2
    for command in commands:
        assert command.startswith("apt-get update && apt-get install -y --no-install-recommends ")
        assert " && rm -rf /var/lib/apt/lists/*" in command
    assert all("--no-cache-dir" in command for command in arguments_of("RUN") if "pip install" in command)


def test_everything_that_is_copied_is_in_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignored
    for arguments in arguments_of("COPY"):
        *sources, _ = shlex.split(arguments)
        if sources[0].startswith("--from=build"):
            continue
        assert [source for source in sources if not (ROOT / source).exists() or f"!{source}" not in ignored] == []


def test_the_image_is_made_by_the_commands_of_the_page() -> None:
    page = "".join(block.text for block in followed_blocks())
    without = [re.sub(r" --(quiet|no-cache-dir)", "", text) for text in (page, "\n".join(arguments_of("RUN")))]
    installs = [
        set(re.findall(r"\.venv/bin/(pip install .+?|python -m compileall .+?)(?: &&|\n|$)", t)) for t in without
    ]
    assert len(installs[0]) == 3
    assert installs[0] == installs[1]


def test_the_image_starts_what_the_unit_starts() -> None:
    (command,) = arguments_of("CMD")
    unit = settings_of(ROOT / "deploy" / "systemd" / "signalbox-web@.service")
    assert yaml.safe_load(command) == shlex.split(unit["ExecStart"].removeprefix("/srv/signalbox/current/.venv/bin/"))


def test_compose_has_all_parts() -> None:
    assert set(SERVICES) == {"postgres", "redis", "migrate", "web", "worker", "nginx"}
    assert set(COMPOSE["volumes"]) == {
        name
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if re.fullmatch(r"\w+", name := volume.split(":")[0])
    }


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in service


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_a_service_are_settings(name: str) -> None:
    documented = (ROOT / "docs" / "settings.md").read_text("utf-8")
    settings = set(SERVICES[name]["environment"]) - {"PROCESSES_PASSWORD"}
    assert [setting for setting in settings if f"| `{setting}` |" not in documented] == []


def test_the_web_processes_of_a_container_count_together_in_a_folder_that_they_can_write() -> None:
    web = SERVICES["web"]
    assert web["environment"]["PROMETHEUS_MULTIPROC_DIR"] in web["tmpfs"]
    assert "PROMETHEUS_MULTIPROC_DIR" not in SERVICES["worker"]["environment"]


def test_each_worker_serves_metrics_to_the_other_containers() -> None:
    environment = SERVICES["worker"]["environment"]
    assert (environment["WORKER_METRICS_PORT"], environment["WORKER_METRICS_HOST"]) == ("9461", "0.0.0.0")
    assert environment.items() > COMPOSE["x-signalbox"]["environment"].items()


def test_a_service_waits_for_what_it_needs() -> None:
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed]
            else:
                assert (needed, how["condition"]) == ("migrate", "service_completed_successfully")


def test_compose_waits_as_long_as_systemd_for_a_stop() -> None:
    for name in ("web", "worker"):
        unit = settings_of(ROOT / "deploy" / "systemd" / f"signalbox-{name}@.service")
        assert SERVICES[name]["stop_grace_period"] == f"{unit['TimeoutStopSec']}s"


def test_nginx_and_the_web_processes_share_the_socket_of_the_configuration() -> None:
    socket = SERVICES["web"]["environment"]["BIND"]
    assert f"server {socket};" in (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
    assert "./deploy/nginx.conf:/etc/nginx/nginx.conf:ro" in SERVICES["nginx"]["volumes"]


def test_no_image_is_the_latest_one_and_no_password_is_in_the_file() -> None:
    assert [name for name, service in SERVICES.items() if service["image"].endswith(":latest")] == []
    text = (ROOT / "compose.yaml").read_text("utf-8")
    passwords = re.findall(r"(?:_PASSWORD|ENCRYPTION_KEY): (.+)", text)
    assert passwords
    assert [value for value in passwords if not value.startswith("${")] == []
