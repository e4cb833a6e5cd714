# SPDX-License-Identifier: Apache-2.0
"""A host of each image without agent or sidecar, for tests that work on the levers themselves."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktls_lab import api
from tools.compatibility_table import KEY_UPDATES, Matrix, cell, kind, suites

IMAGES = ("debian13", "debian12", "debian13-backports")
GUEST = Path(__file__).with_name("guest")
MATRIX_DIRECTORY = "/root/matrix"
MATRIX_TIMEOUT_S = 400.0


@dataclass(frozen=True)
class Levers:
    """A lab with hosts of different images."""

    lab: api.Lab

    @property
    def names(self) -> list[str]:
        """Hosts, in order."""
        return [host.name for host in self.lab.hosts]

    def host(self, image: str) -> str:
        """Name of the host of an image."""
        return next(host.name for host in self.lab.hosts if host.image == image)

    def run(
        self,
        host: str,
        command: Sequence[str] | str,
        *,
        stdin: str | None = None,
        timeout_s: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run as root: a sequence is quoted for the remote shell, a string is not. ``check``: it must succeed."""
        done = self.lab.ssh(host, command, timeout=timeout_s, stdin=stdin)
        assert not check or done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
        return done

    def put(self, host: str, local: Path, remote: str) -> None:
        """Copy a file to the path ``remote``, or what is in a directory into the directory ``remote``."""
        target = Path(remote)
        directory = target if local.is_dir() else target.parent
        unpack = ["sh", "-c", 'mkdir -p "$1" && tar -C "$1" --no-same-owner -xf -', "sh", str(directory)]
        archive = archived(local, "" if local.is_dir() else target.name)
        done = subprocess.run(
            self.lab.ssh_argv(host, unpack), input=archive, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{host}: {local} to {remote}: {done.stderr.decode(errors='replace')}"

    def python(
        self, host: str, script: str, *arguments: str, stdin: str | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a script that is on the host."""
        return self.run(host, ["python3", script, *arguments], stdin=stdin, timeout_s=timeout_s)

    def matrix(self, host: str, *arguments: str) -> Matrix:
        """Measure with ``guest/matrix.py``; its arguments are described there."""
        self.put(host, GUEST, f"{MATRIX_DIRECTORY}/guest")
        command = ["env", f"PYTHONPATH={MATRIX_DIRECTORY}", "python3", "-m", "guest.matrix", *arguments]
        found: Matrix = json.loads(self.run(host, command, timeout_s=MATRIX_TIMEOUT_S).stdout)
        return found


def archived(local: Path, name: str) -> bytes:
    """Return an uncompressed tar archive of a file as ``name``, or of what a directory holds but for bytecode."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        if not local.is_dir():
            archive.add(local, name)
        for path in sorted(local.rglob("*")) if local.is_dir() else ():
            if "__pycache__" not in path.parts:
                archive.add(path, str(path.relative_to(local)), recursive=False)
    return buffer.getvalue()


def agree(matrix: Matrix, proof: Mapping[str, Any]) -> list[str]:
    """Tell where the preflight proof of a host says something else than the matrix measured on the same host.

    Reasons may differ in words; what happened may not. Empty when both say the same of every cell.
    """
    found = [] if proof.get("done") else ["the proof was not finished"]
    if proof.get("library") != matrix["openssl"]:
        found.append(f"matrix: {matrix['openssl']}, proof: {proof.get('library')}")
    proved = {(entry["version"], entry["cipher"]): entry for entry in proof.get("cells", ())}
    for suite in suites(matrix):
        if suite in proved:
            found += _differences(matrix, suite, proved.pop(suite))
        else:
            found.append(f"{' '.join(suite)}: the proof lacks it")
    return found + [f"{' '.join(suite)}: the matrix lacks it" for suite in proved]


def _differences(matrix: Matrix, suite: tuple[str, str], proved: Mapping[str, Any]) -> list[str]:
    offered = all(cell(matrix, suite, direction)["offered"] for direction in ("tx", "rx"))
    said: dict[str, tuple[object, object]] = {"offered": (offered, proved.get("offered"))}
    for direction in ("tx", "rx"):
        measured = cell(matrix, suite, direction)
        in_kernel = measured[direction] and measured["data"] == "ok"
        said[direction] = in_kernel, proved.get(direction)
        updates = (proved.get("key_update") or {}).get(direction)
        if measured["key_update"] is None or not in_kernel:
            # The matrix may still say what a connection does; the proof has no such direction to speak of.
            said[f"KeyUpdate with {direction}"] = None, updates
            continue
        for name in KEY_UPDATES:
            outcomes = kind(measured["key_update"][name]), kind((updates or {}).get(name))
            said[f"KeyUpdate {name} with {direction}"] = outcomes
    different = {what: pair for what, pair in said.items() if pair[0] != pair[1]}
    return [f"{' '.join(suite)}: {what}: matrix {ours}, proof {theirs}" for what, (ours, theirs) in different.items()]
