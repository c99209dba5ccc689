"""A PostgreSQL with a database on a disk of 64 MB, which can be filled up.

The disk is a tmpfs in a mount namespace of its own, which ends with its processes: nobody else sees it, and no right is needed
where users may create namespaces. `running_small_disk` starts this module there and sends it orders on standard input.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from tests.support.server import ROOT, clean_environment

SIZE = "64m"
_FILLER = "filler"


class SmallDisk:
    """A running PostgreSQL; `url` leads to its database."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._read()

    def fill(self) -> None:
        """Let nothing be left of the disk."""
        self._order("fill")

    def free(self) -> None:
        """Let most of the disk be left."""
        self._order("free")

    def _order(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._read() == "done"

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "a tmpfs in a mount namespace is needed here: root, or a kernel that lets users create namespaces"
        return line


@contextmanager
def running_small_disk() -> Iterator[SmallDisk]:
    """A PostgreSQL on a small disk; ended with its block."""
    namespace = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps", "--mount"]
    with tempfile.TemporaryDirectory(prefix="signalbox-disk-") as folder:
        os.chmod(folder, 0o711)
        process = subprocess.Popen(
            ["unshare", *namespace, sys.executable, "-m", __name__, folder],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield SmallDisk(process)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(60)


def main(folder: Path) -> None:
    """Mount the disk, start PostgreSQL, create the database, and obey until standard input ends."""
    disk, data = folder / "disk", folder / "data"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "signalbox-test", str(disk)], check=True)
    postgres = EmbeddedPostgres(data, durable=False, say=lambda line: None)
    postgres.start()
    try:
        space = disk / "space"
        space.mkdir(mode=0o700)
        # As root, PostgreSQL runs as another user.
        owner = (data / "postgres").stat()
        os.chown(space, owner.st_uid, owner.st_gid)
        disk.chmod(0o755)
        with closing(psycopg2.connect(postgres.url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
            cursor.execute("CREATE DATABASE small TABLESPACE small")
        print(postgres.url.replace("/signalbox?", "/small?"), flush=True)
        for line in sys.stdin:
            _obey(line.strip(), disk / _FILLER)
            print("done", flush=True)
    finally:
        postgres.stop()


def _obey(word: str, filler: Path) -> None:
    if word == "free":
        filler.unlink(missing_ok=True)
        return
    with filler.open("wb", buffering=0) as file:
        for size in (1024 * 1024, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
