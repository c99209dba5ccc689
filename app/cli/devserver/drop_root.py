"""Runs PostgreSQL as another user when started as root, and gives that user access to its programs and data.

Other users get no more than search permission on folders, and read permission on PostgreSQL's own programs.
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
    """There is no user to run as. The text is printed as one line."""


@dataclass(frozen=True, slots=True)
class SystemUser:
    """A user of the operating system."""

    name: str
    uid: int
    gid: int


def unprivileged_user(data: Path, say: Callable[[str], None]) -> SystemUser | None:
    """The user to run as: None for the current one; for root the owner of `data`, or `pgserver`, created if missing."""
    if os.geteuid() != 0:
        return None
    owner = data.stat().st_uid if data.exists() else 0
    try:
        entry = pwd.getpwuid(owner) if owner != 0 else pwd.getpwnam(NAME)
    except KeyError:
        if owner != 0:
            raise UserError(f"{data} belongs to user {owner}, who does not exist on this machine") from None
        _add_user(say)
        entry = pwd.getpwnam(NAME)
    return SystemUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _add_user(say: Callable[[str], None]) -> None:
    command = ["useradd", "--system", "--no-create-home", "--user-group", "--shell", "/usr/sbin/nologin", NAME]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        if _exists(NAME):
            # Another process has just created it.
            return
        reason = getattr(exc, "stderr", None) or str(exc)
        raise UserError(
            f"PostgreSQL refuses to run as root, and the user {NAME} cannot be created ({reason.strip()}): "
            "run as another user, or set DATABASE_URL"
        ) from None
    say(f"Created the system user {NAME}: PostgreSQL refuses to run as root")


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def run_as(user: SystemUser | None) -> dict[str, Any]:
    """The options of Popen that run a program as `user`, without the current groups."""
    return {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}


def allow_traversal(user: SystemUser, paths: Iterable[Path]) -> list[Path]:
    """Give others search permission on the folders above `paths` that `user` cannot pass. Returns those folders."""
    above = {folder for path in paths for form in (path.absolute(), path.resolve()) for folder in form.parents}
    return [folder for folder in sorted(above) if not _owns(user, folder) and _allow_others(folder, stat.S_IXOTH)]


def _owns(user: SystemUser, folder: Path) -> bool:
    status = folder.stat()
    return status.st_uid == user.uid and bool(status.st_mode & stat.S_IXUSR)


def make_readable(tree: Path) -> bool:
    """Let others read everything below `tree` and run its programs. Returns whether a permission was changed."""
    changed = [_allow_others(tree, stat.S_IROTH | stat.S_IXOTH)]
    for folder, folders, files in os.walk(tree):
        changed += [_allow_others(Path(folder, name), stat.S_IROTH | stat.S_IXOTH) for name in folders]
        for name in files:
            file = Path(folder, name)
            executable = stat.S_IXOTH if file.stat().st_mode & stat.S_IXUSR else 0
            changed.append(_allow_others(file, stat.S_IROTH | executable))
    return any(changed)


def _allow_others(path: Path, bits: int) -> bool:
    mode = path.stat().st_mode
    if mode & bits == bits:
        return False
    path.chmod(stat.S_IMODE(mode) | bits)
    return True
