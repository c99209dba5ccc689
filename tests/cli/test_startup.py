"""The program `signalbox`: its imports, which determine its start time, its help, version, completion and exit codes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from app import __version__
from app.cli.commands import group
from app.cli.lazy_group import LazyCommand
from app.cli.program import paste, program_name
from tests.support.command_lines import SIGNALBOX
from tests.support.server import clean_environment

ROOT = Path(__file__).resolve().parents[2]
# Large libraries that only servers, workers, migrations or compiled workflows need.
HEAVY = {"aiohttp", "alembic", "cel", "gevent", "gunicorn", "phonenumbers", "prometheus_client", "psutil"}
COMMANDS = ["account list", "event list", "key list", "migrate", "run list", "worker", "workflow check"]
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"


def _run(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(DATABASE_URL=NO_DATABASE, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def _imported(stderr: str) -> set[str]:
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in stderr.splitlines()}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_starts_without_the_large_libraries(command: str) -> None:
    done = _run(sys.executable, "-X", "importtime", "-m", "app.cli", *command.split(), "--help")
    assert done.stdout.startswith("Usage: ")
    assert "flask" in _imported(done.stderr)
    assert _imported(done.stderr) & HEAVY == set()


def test_a_document_is_checked_without_the_database(tmp_path: Path) -> None:
    document = tmp_path / "a.yaml"
    document.write_text("name: a\non: b\nsteps: [{log: c}]\n")
    for words in (("check", str(document)), ("schema",)):
        done = _run(sys.executable, "-X", "importtime", "-m", "app.cli", "workflow", *words)
        assert _imported(done.stderr) & {"sqlalchemy", "psycopg2", "redis", "marshmallow"} == set()


def test_help_and_completion_import_no_command() -> None:
    completing = {"COMP_WORDS": "signalbox wor", "COMP_CWORD": "1", "_SIGNALBOX_COMPLETE": "bash_complete"}
    for words, settings in ((["--help"], {}), ([], completing)):
        done = _run(sys.executable, "-X", "importtime", "-m", "app.cli", *words, **settings)
        assert "workflow" in done.stdout
        assert _imported(done.stderr) & {"sqlalchemy", "psycopg2", *HEAVY} == set()


def test_help_lists_only_our_commands() -> None:
    listed = re.findall(r"^  ([a-z-]+)  ", CliRunner().invoke(group, ["--help"]).output.partition("Commands:")[2], re.M)
    assert listed == sorted(group.commands)
    assert {"run", "worker", "migrate"} <= set(listed)
    assert {"routes", "shell", "limiter"} & set(listed) == set()


def test_no_line_of_help_is_cut_off() -> None:
    lazy = [group.commands[name] for name in group.commands]
    for command in (group, *(one.load() for one in lazy if isinstance(one, LazyCommand))):
        if isinstance(command, click.Group):
            output = CliRunner().invoke(command, ["--help"]).output
            assert "..." not in output.partition("Commands:")[2], output


def test_the_version_is_that_of_the_package() -> None:
    assert CliRunner().invoke(group, ["--version"]).output == f"signalbox {__version__}\n"
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: app.__version__"


def test_the_package_installs_the_program() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.entry_points"]["console_scripts"].strip() == "signalbox = app.cli.commands:main"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_each_shell_is_printed(shell: str) -> None:
    done = CliRunner().invoke(group, ["completion", shell])
    assert done.exit_code == 0
    assert f"_SIGNALBOX_COMPLETE={shell}_complete" in done.output


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    program = tmp_path / "signalbox"
    program.write_text(f'#!/bin/sh\nexec {" ".join(SIGNALBOX)} "$@"\n')
    program.chmod(0o755)
    script = f"""
eval "$({program} completion bash)"
COMP_WORDS=({program} run re) COMP_CWORD=2
_signalbox_completion {program}
echo "${{COMPREPLY[@]}}"
"""
    assert _run("bash", "-c", script).stdout == "retry\n"


def test_flask_s_own_commands_see_the_routes() -> None:
    assert "/api/v1/cvf-events" in _run(sys.executable, "-m", "flask", "--app", "wsgi", "routes").stdout


def test_flask_has_the_commands_too() -> None:
    assert "whole key" in _run(sys.executable, "-m", "flask", "--app", "wsgi", "key", "revoke", "--help").stdout


def test_a_printed_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "bin" / "signalbox"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert program_name() == "bin/signalbox"
    monkeypatch.setenv("PATH", str(program.parent))
    assert program_name() == "signalbox"
    monkeypatch.setattr(sys, "argv", [str(ROOT / "app" / "cli" / "__main__.py")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my venv" / "python"))
    assert program_name() == "'my venv/python' -m app.cli"
    assert paste("workflow", "enable", "a b") == "`signalbox workflow enable 'a b'`"


# Exit codes


def _with_a_command(raised: BaseException) -> Result:
    """The result of the program when a command raises."""
    name = "raises"

    @group.command(name)
    def _raises() -> None:
        raise raised

    try:
        return CliRunner().invoke(group, [name])
    finally:
        del group.commands[name]


def test_an_interrupted_command_has_exit_code_130() -> None:
    assert _with_a_command(KeyboardInterrupt()).exit_code == 128 + signal.SIGINT


def test_every_exit_code_is_documented() -> None:
    documented = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert set(re.findall(r"^\| (\d+) \|", documented, re.MULTILINE)) == {"0", "1", "2", "3", "130"}


def test_a_command_that_is_interrupted_while_it_starts_prints_no_traceback() -> None:
    interrupt = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'flask.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from app.cli.commands import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", interrupt], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "")
