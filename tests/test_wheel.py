"""What `pip install .` installs is whole: it migrates a database and finds its example, far from any checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.server import clean_environment

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("app", "migrations", "deploy", "examples", "setup.cfg", "setup.py", "wsgi.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel puts into site-packages; built from a copy, so that nothing lands in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for part in PARTS:
        path = ROOT / part
        if path.is_dir():
            shutil.copytree(path, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    subprocess.run([*build, str(folder), str(source)], check=True, timeout=120, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _run(installed: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(DATABASE_URL=url, LOG_LEVEL="error") | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_installed_wheel_migrates_and_is_healthy(installed: Path, empty_database: str) -> None:
    done = _run(installed, empty_database, "-m", "app.cli", "migrate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the database is up to date\n", "")
    pages = "/health", "/console/sign-in"
    statuses = (
        f"import wsgi; get = wsgi.app.test_client().get; print(wsgi.__file__, *[get(p).status_code for p in {pages}])"
    )
    done = _run(installed, empty_database, "-c", statuses)
    assert done.stdout == f"{installed / 'wsgi.py'} 200 503\n", "the console says that ENCRYPTION_KEY is missing"


def test_what_make_run_reads_is_in_the_wheel(installed: Path) -> None:
    for part in ("deploy/gunicorn.conf.py", "examples/hello.yaml"):
        assert (installed / part).read_bytes() == (ROOT / part).read_bytes()


@pytest.mark.parametrize("folder", ["app/workflows/sources/presets", "app/workflows/workflow_templates"])
def test_presets_and_templates_are_in_the_wheel(installed: Path, folder: str) -> None:
    assert {file.name for file in (installed / folder).iterdir()} == {file.name for file in (ROOT / folder).iterdir()}


def test_the_wheel_installs_the_program(installed: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "[console_scripts]\nsignalbox = app.cli.commands:main\n" in entry_points.read_text()
