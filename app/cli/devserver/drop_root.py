"""Started as root, PostgreSQL has to run as somebody else, who has to reach its programs and its data.

Comes in: paths. Goes out: the user to run as, and what had to be opened for it: never more than passing through a
folder (search, not read) and reading PostgreSQL's own programs.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.cli.devserver.child_process import StartError

NAME = "pgserver"


class UserError(StartError):
    """There is no user to run as; the text is the line that people read."""


@dataclass(frozen=True, slots=True)
class SystemUser:
    """A user of the operating system."""

    name: str
    uid: int
    gid: int


def unprivileged_user(data: Path, say: Callable[[str], None]) -> SystemUser | None:
    """Whom to run as: None for ourselves; as root the owner of `data`, or the user `pgserver`, made when missing."""
    if os.geteuid() != 0:
        return None
    owner = data.stat().st_uid if data.exists() else 0
    try:
        entry = pwd.getpwuid(owner) if owner != 0 else pwd.getpwnam(NAME)
    except KeyError:
        if owner != 0:
            raise UserError(f"{data} belongs to user {owner}, whom this machine does not know") from None
        _add_user(say)
        entry = pwd.getpwnam(NAME)
    return SystemUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _add_user(say: Callable[[str], None]) -> None:
    command = ["useradd", "--system", "--no-create-home", "--user-group", "--shell", "/usr/sbin/nologin", NAME]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as failure:
        said = getattr(failure, "stderr", None) or str(failure)
        raise UserError(
            f"PostgreSQL refuses to run as root, and the user {NAME} could not be made ({said.strip()}): "
            "run as another user, or set DATABASE_URL"
        ) from None
    say(f"Made the system user {NAME}: PostgreSQL refuses to run as root")


def run_as(user: SystemUser | None) -> dict[str, Any]:
    """The options of Popen that make a program run as `user`, without any of our groups."""
    return {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}


def open_the_way(user: SystemUser, paths: Iterable[Path]) -> list[Path]:
    """Let others pass through (search, not read) the folders above `paths` that `user` cannot pass; returns those."""
    above = {folder for path in paths for way in (path.absolute(), path.resolve()) for folder in way.parents}
    return [folder for folder in sorted(above) if not _owns(user, folder) and _allow_others(folder, stat.S_IXOTH)]


def _owns(user: SystemUser, folder: Path) -> bool:
    status = folder.stat()
    return status.st_uid == user.uid and bool(status.st_mode & stat.S_IXUSR)


def make_readable(tree: Path) -> bool:
    """Let others read all below `tree` and run what can be run; True if anything had to be changed for it."""
    changed = [_allow_others(tree, stat.S_IROTH | stat.S_IXOTH)]
    for folder, folders, files in os.walk(tree):
        changed += [_allow_others(Path(folder, name), stat.S_IROTH | stat.S_IXOTH) for name in folders]
        for name in files:
            file = Path(folder, name)
            runs = stat.S_IXOTH if file.stat().st_mode & stat.S_IXUSR else 0
            changed.append(_allow_others(file, stat.S_IROTH | runs))
    return any(changed)


def _allow_others(path: Path, bits: int) -> bool:
    mode = path.stat().st_mode
    if mode & bits == bits:
        return False
    path.chmod(stat.S_IMODE(mode) | bits)
    return True
