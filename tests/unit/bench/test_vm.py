# SPDX-License-Identifier: Apache-2.0
"""What goes into the VM, and which VM."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

from bench import vm
from bench.tools import PACKAGES
from ktls_lab import images


def test_the_image_has_the_programs_and_is_only_built_when_named() -> None:
    image = images.load(vm.IMAGE)
    assert image.opt_in and vm.IMAGE not in images.names()
    # util-linux is essential, so every image has it.
    assert set(PACKAGES.values()) - {"util-linux"} <= set(image.packages)


def test_what_goes_along_is_all_that_a_measurement_needs(tmp_path: Path) -> None:
    data = vm.payload()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        assert all(entry.mode & 0o444 == 0o444 and entry.uid == 0 for entry in archive.getmembers())
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=data, check=True)
    assert not [name for name in names if "__pycache__" in name]
    # Only the standard library is there: nothing of this environment.
    for module, path in (("bench.measure", "."), ("ktls_sidecar.cli", "agent:vendor")):
        bare = [sys.executable, "-S", "-m", module, "--help"]
        ran = subprocess.run(bare, cwd=tmp_path, env={"PYTHONPATH": path}, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
