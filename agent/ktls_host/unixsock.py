# SPDX-License-Identifier: Apache-2.0
"""Where a Unix socket listens: nobody can connect before mode and group are right, and no other is pushed away."""

from __future__ import annotations

import grp
import os
import socket
import stat

from .errors import KtlsError
from .exchange import reason

_MAX_UNIX_PATH = 107  # bytes: sockaddr_un.sun_path is 108 with its final zero (unix(7))


def listening_place(path: str, mode: int, group: str | None) -> socket.socket:
    """Return a stream socket bound to ``path`` with its final ``mode`` and ``group``; nothing listens yet.

    A socket file that nobody listens on is replaced. Raises :class:`KtlsError`: ``socket_in_use``,
    ``path_in_the_way``, ``no_such_group``, ``bind_failed``.
    """
    gid = _group_id(group)
    _clear_stale(path)
    return _bound(path, mode, gid)


def _group_id(group: str | None) -> int:
    if group is None:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        message = f"there is no group {group!r} on this host; create it (systemd-sysusers) and start again"
        raise KtlsError("no_such_group", message) from error


def _clear_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise KtlsError("path_in_the_way", f"{path} exists and is not a socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            message = f"cannot tell whether {path} is in use ({reason(error)}); stop its service, remove it"
            raise KtlsError("socket_in_use", message) from error
    raise KtlsError("socket_in_use", f"another process already listens on {path}; stop it first")


def _bound(path: str, mode: int, gid: int) -> socket.socket:
    if len(os.fsencode(path)) > _MAX_UNIX_PATH:
        raise KtlsError("bind_failed", f"the socket path {path} is longer than {_MAX_UNIX_PATH} bytes")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made = False
    # bind(2) makes the file with 0777 & ~umask: closed to all until owner and mode are right.
    previous = os.umask(0o777)
    try:
        sock.bind(path)
        made = True
        # A directory with the set-group-ID bit has given its own, and then chown(2) need not be allowed, nor the group
        # be known in this user namespace.
        if gid != -1 and not os.stat(os.path.dirname(path) or ".").st_mode & stat.S_ISGID:
            os.chown(path, -1, gid)
        os.chmod(path, mode)
    except OSError as error:
        sock.close()
        if made:
            os.unlink(path)
        message = f"cannot make the socket {path} ({reason(error)}); check its directory and its group"
        raise KtlsError("bind_failed", message) from error
    finally:
        os.umask(previous)
    return sock
