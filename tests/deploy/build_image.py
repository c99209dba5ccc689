"""Builds the Dockerfile with buildah, as root, and runs a command in the image: `python -m tests.deploy.build_image ARCHIVE`.

ARCHIVE is a tar file with a Debian 12 (`make deploy-check ARGS="--archive FILE"` makes one), which takes the place of the base
image: a registry is not needed. The packages come from Debian and PyPI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.deploying_page import ROOT

BASE = "docker.io/library/debian:bookworm-slim"


def main(archive: Path) -> int:
    """Build the base and the image; 0 when the command runs as the user of the image."""
    folder = Path(tempfile.mkdtemp(prefix="signalbox-image-", dir="/var/tmp"))
    environment = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}

    def buildah(*words: str) -> str:
        command = ["buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run"), *words]
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    try:
        base = folder / "base"
        base.mkdir()
        shutil.copy(archive, base / "debian.tar")
        (base / "Dockerfile").write_text("FROM scratch\nADD debian.tar /\n")
        buildah("build", "--quiet", "--tag", BASE, str(base))
        buildah("build", "--pull-never", *_network(folder), "--tag", "signalbox", str(ROOT))
        container = buildah("from", "--pull-never", "signalbox")
        print(buildah("run", container, "--", "sh", "-c", "id --user --name && signalbox --version"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _network(folder: Path) -> list[str]:
    """Options for a machine with certificates of its own for package registries."""
    if "PIP_CERT" not in os.environ:
        return []
    (folder / "pip.conf").write_text("[global]\ncert = /etc/pip.crt\n")
    return ["--volume", f"{os.environ['PIP_CERT']}:/etc/pip.crt:ro", "--volume", f"{folder}/pip.conf:/etc/pip.conf:ro"]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
