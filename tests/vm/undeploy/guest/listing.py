# SPDX-License-Identifier: Apache-2.0
"""List a whole file system: what `find` would say, with hashes, so that two listings can be held against each other.

    python3 listing.py [ROOT] >listing.json

An object: path to [type, mode, owner, size, content, attributes]. Content is the SHA-256 of a file, the target of a
link, the numbers of a device. Attributes are extended ones (POSIX ACLs, capabilities, labels). Times are left out: they
say when, not what. Runs on a host, with Python 3.9 and nothing else.
"""

from __future__ import annotations

import errno
import grp
import hashlib
import json
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterator

#: Paths that change by themselves or by whoever logs in, and why that says nothing of a deploy. A whole tree each.
VOLATILE = {
    "/var/log": "logs and the journal",
    "/var/lib/systemd/random-seed": "systemd writes a new one",
    "/var/lib/systemd/timers": "when timers last ran",
    "/var/lib/systemd/timesync": "the clock's last time",
    "/var/lib/systemd/linger": "who has logged in",
    "/var/cache/apt": "apt's timers run when they like",
    "/var/lib/apt": "apt's timers run when they like",
    "/var/lib/dpkg/lock": "apt's timers run when they like",
    "/var/lib/logrotate": "when logs were last rotated",
    "/var/lib/private/systemd": "state of systemd's own services",
    "/root/.ansible": "Ansible's own directory, there after any of its tasks, ours or not",
    "/root/.cache": "caches of whoever is logged in",
    "/etc/passwd-": "shadow(5)'s copy of the file before its last change",
    "/etc/group-": "shadow(5)'s copy of the file before its last change",
    "/etc/shadow-": "shadow(5)'s copy of the file before its last change",
    "/etc/gshadow-": "shadow(5)'s copy of the file before its last change",
}
#: What systemd makes anew for each start of a service with PrivateTmp=: here without the last, random, part.
_PRIVATE = re.compile(r"(/systemd-private-[0-9a-f]{32}-[^/]+\.service)-[A-Za-z0-9]{6}(?=/|\Z)")
#: In /run, and in what is volatile, only names with this in them are listed: all of ours have it.
OURS = "ktls"
_BLOCK = 1 << 20


def listing(root: str = "/") -> dict[str, list[object]]:
    """Return the whole listing of what is below ``root``."""
    found = {path: entry(os.path.join(root, path.lstrip("/"))) for path in walk(root)}
    return {_PRIVATE.sub(r"\1", path): said for path, said in found.items() if said is not None}


def walk(root: str) -> Iterator[str]:
    """Yield every path that counts, directories before what is in them."""
    pending = ["/"]
    while pending:
        directory = pending.pop()
        try:
            names = sorted(os.listdir(os.path.join(root, directory.lstrip("/"))))
        except FileNotFoundError:
            continue
        for name in names:
            path = os.path.join(directory, name)
            where = os.path.join(root, path.lstrip("/"))
            descend = os.path.isdir(where) and not os.path.islink(where)
            if path in ("/proc", "/sys", "/dev"):
                continue
            if OURS in path or not is_volatile(path):
                yield path
            if descend:
                pending.append(path)


def is_volatile(path: str) -> bool:
    """Whether a path, or a directory above it, changes without us."""
    parts = path.split("/")
    return any("/".join(parts[:count]) in ("/run", *VOLATILE) for count in range(2, len(parts) + 1))


def entry(path: str) -> list[object] | None:
    """Return what there is to say of one path; None when it has gone meanwhile.

    What cannot be read is an error: a file that is left out of both listings is the same in both.
    """
    try:
        found = os.lstat(path)
        kind = stat.S_IFMT(found.st_mode)
        content, size = "", 0
        if stat.S_ISREG(kind):
            content, size = digest(path), found.st_size
        elif stat.S_ISLNK(kind):
            content = os.readlink(path)
        elif stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            content = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        attributes = extended(path)
    except FileNotFoundError:
        return None
    letter = stat.filemode(found.st_mode)[0]
    return [letter, f"{stat.S_IMODE(found.st_mode):04o}", owner(found), size, content, attributes]


def extended(path: str) -> dict[str, str]:
    """Return the extended attributes of a path; a file system that has none (ENOTSUP) has none to change."""
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names}


def digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            sha.update(block)
    return sha.hexdigest()


def owner(found: os.stat_result) -> str:
    """Return numbers and names: a number without a name belongs to nobody any more."""
    try:
        user = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        user = "?"
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = "?"
    return f"{found.st_uid}({user}):{found.st_gid}({group})"


def differences(before: dict[str, list[object]], after: dict[str, list[object]]) -> list[str]:
    """Return what is not the same, one line a path, sorted."""
    said = []
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            said.append(f"{path}: gone, was {before[path]}")
        elif path not in before:
            said.append(f"{path}: new, is {after[path]}")
        elif before[path] != after[path]:
            said.append(f"{path}: was {before[path]}, is {after[path]}")
    return said


if __name__ == "__main__":
    json.dump(listing(*sys.argv[1:2]), sys.stdout)
