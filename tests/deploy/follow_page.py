"""Follows docs/deploying.md word by word in a new Debian 12: `make deploy-check`, as root; takes minutes and needs the network.

The machine is a folder made by debootstrap, with systemd and nothing else, and is booted by systemd-nspawn. The blocks of the
page are run in it as one script. Only what the page asks its reader to choose is replaced: the name, where the source comes from,
the release, and the time to restore. Events are counted in between.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.deploying_page import ROOT, Block, followed_blocks

# Ports of the services on the page; the machine shares the network of this one.
PORTS = (80, 443, 5432, 6379)
NEEDED = ("debootstrap", "systemd-nspawn", "nsenter")
CHOSEN = {
    "HOST": "localhost",
    "SOURCE": "/source",
    "RELEASE": "checked",
    "TIME": '"$CHECK_TIME"',
}
_STORED = 'runuser -u postgres -- psql -Atc "SELECT count(*) FROM events" signalbox'
# What is checked after the last block of a section; `count` is the number of stored events.
CHECKS = {
    "From an empty machine": 'test "$(count)" = 1',
    "Upgrading": 'send; test "$(count)" = 2',
    "Rolling back": 'send; test "$(count)" = 3',
    "Backup and restore": 'test "$(count)" = 4; send; test "$(count)" = 5',
}


def script() -> str:
    """All blocks as one script, which stops at the first error."""
    parts = ["set -euo pipefail", "PS4='+ '", f"count() {{ {_STORED}; }}"]
    blocks = followed_blocks()
    for number, block in enumerate(blocks):
        parts.append(f"echo '== {block.section}, line {block.line}'")
        if block.text.startswith("TIME="):
            # Events after this time are not to be there after the restore.
            parts.append('send; sleep 2; CHECK_TIME=$(date --utc "+%F %T+00"); sleep 2; send; test "$(count)" = 5')
        parts.append(_with_choices(block))
        if "api/v1/cvf-events" in block.text:
            parts.append(f"send() {{\n{_with_choices(block)}}}")
        if number + 1 == len(blocks) or blocks[number + 1].section != block.section:
            parts.append(CHECKS[block.section])
    return "\n".join([*parts, "echo == done", ""])


def _with_choices(block: Block) -> str:
    text = block.text
    for name, value in CHOSEN.items():
        text = re.sub(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
    return text


class Machine:
    """A Debian 12 in a folder, booted."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        self._log = log
        self._nspawn: subprocess.Popen[bytes] | None = None

    def make(self, archive: Path | None) -> None:
        """Install a minimal Debian with systemd, or unpack one from the archive; an archive that does not exist is made."""
        self.root.mkdir()
        if archive and archive.exists():
            _run(["tar", "-xf", str(archive), "-C", str(self.root)])
        else:
            _run(
                ["debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus", "bookworm", str(self.root)]
            )
            if archive:
                _run(["tar", "-cf", str(archive), "-C", str(self.root), "."])
        source = self.root / "source"
        _run(["git", "clone", "--quiet", "--bare", "--no-hardlinks", str(ROOT), str(source)])
        _run(["git", f"--git-dir={source}", "branch", "--force", CHOSEN["RELEASE"], _head()])
        self._share_network()

    def _share_network(self) -> None:
        """This machine's name servers, and the certificates by which it reaches the package registries where it has its own."""
        if "PIP_CERT" in os.environ:
            shutil.copy(os.environ["PIP_CERT"], self.root / "etc" / "pip.crt")
        shutil.copy("/etc/resolv.conf", self.root / "etc" / "resolv.conf")

    def boot(self) -> None:
        """Start systemd in it and wait until it has started everything."""
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", f"--directory={self.root}"]
        command += ["--resolv-conf=off", "--capability=CAP_NET_BIND_SERVICE", "--console=pipe"]
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while self.run("systemctl is-system-running --wait >/dev/null; test -S /run/systemd/private") != 0:
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"systemd did not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.5)

    def _leader(self) -> int:
        assert self._nspawn is not None
        for child in psutil.Process(self._nspawn.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.name() == "systemd":
                    return child.pid
        return 0

    def run(self, text: str) -> int:
        """Run a script in it as root, as after a login on a machine without a locale; its exit code."""
        leader = self._leader()
        if not leader:
            return 1
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        environment |= {"DEBIAN_FRONTEND": "noninteractive"}
        if "PIP_CERT" in os.environ:
            environment["PIP_CERT"] = "/etc/pip.crt"
        command = ["nsenter", f"--target={leader}", "--all", "--wdns=/root", "bash", "-s"]
        return subprocess.run(command, input=text.encode(), env=environment, check=False).returncode

    def stop(self) -> None:
        """Shut it down."""
        if self._nspawn is None:
            return
        with suppress(ProcessLookupError):
            # systemd-nspawn asks systemd to shut down.
            self._nspawn.send_signal(signal.SIGTERM)
        try:
            self._nspawn.wait(90)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _head() -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def _busy_ports() -> set[int]:
    return {conn.laddr.port for conn in psutil.net_connections("tcp") if conn.status == "LISTEN"} & set(PORTS)


def main() -> int:
    """Make the machine, follow the page, remove the machine; 0 when all blocks and checks succeeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the folder of the machine")
    parser.add_argument("--archive", type=Path, help="a tar file with the new Debian; made if it is missing")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not all(map(shutil.which, NEEDED)):
        sys.exit("Run it as root, with debootstrap and systemd-container installed.")
    if busy := _busy_ports():
        sys.exit(f"Ports in use on this machine: {sorted(busy)}. The page's services need them.")
    folder = Path(tempfile.mkdtemp(prefix="signalbox-machine-", dir="/var/tmp"))
    machine = Machine(folder / "root", folder / "boot.log")
    began = time.monotonic()
    try:
        machine.make(arguments.archive)
        print(f"made a machine in {time.monotonic() - began:.0f} s", flush=True)
        machine.boot()
        code = machine.run(script())
    finally:
        machine.stop()
        if arguments.keep:
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{'followed the page' if code == 0 else 'failed'} in {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
