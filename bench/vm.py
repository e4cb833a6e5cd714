# SPDX-License-Identifier: Apache-2.0
"""Runs the measurement inside one lab VM."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.settings import Settings
from ktls_lab import api
from ktls_lab.errors import LabError

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGE = "debian13-bench"
_THERE = "/srv/ktls-bench"
_LIMIT_S = 4 * 3600.0


def payload() -> bytes:
    """Return a tar archive: this package, the agent's sources, and the HTTP parser that they import."""
    parser = importlib.util.find_spec("h11")
    if parser is None or parser.origin is None:
        raise BenchError("there is no h11 to take along: run 'make prepare'")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for source, name in (
            (REPOSITORY / "bench", "bench"),
            (REPOSITORY / "agent", "agent"),
            (Path(parser.origin).parent, "vendor/h11"),
        ):
            archive.add(source, name, filter=_plain)
    return buffer.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in entry.name:
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def measure(settings: Settings) -> dict[str, Any]:
    """Boot the image, measure there, end it. Raises BenchError."""
    name = f"bench-{os.getpid()}"
    try:
        lab = api.up(name, 1, IMAGE, lambda line: print(line, file=sys.stderr, flush=True))
    except LabError as error:
        raise BenchError(str(error)) from error
    try:
        host = lab.hosts[0].name
        _run(lab.ssh_argv(host, f"mkdir -p {_THERE} && tar -x -C {_THERE} && modprobe tls"), payload(), 120.0)
        settings = Settings.from_json({**settings.to_json(), "server_user": "nobody"})
        words = shlex.join(["python3", "-m", "bench.measure", json.dumps(settings.to_json()), "--own-network"])
        # A limit of its own, for 5,000 connections on either side.
        command = f"cd {_THERE} && ulimit -Hn 65536 && PYTHONDONTWRITEBYTECODE=1 unshare --net {words}"
        result = json.loads(_run(lab.ssh_argv(host, command), b"", _LIMIT_S))
        result["machine"]["accelerator"] = lab.accelerator
        return dict(result)
    except ValueError as error:
        raise BenchError(f"the VM's answer is no result: {error}") from error
    finally:
        api.down(name)


def _run(command: list[str], data: bytes, timeout_s: float) -> bytes:
    try:
        ran = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"the VM did not end after {timeout_s:g} s") from error
    if ran.returncode != 0:
        raise BenchError("the VM could not do it, see above")
    return ran.stdout
