# SPDX-License-Identifier: Apache-2.0
"""A wheel says which commit and which lock it was built from: all else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "agent"))

from ktls_host import buildinfo  # noqa: E402


class WithBuildInfo(build_py):
    """Writes the files that ``--version`` reads beside the packages' modules."""

    def run(self) -> None:
        """Build, then add them; a checkout that is installed as it is goes on asking git."""
        super().run()
        if self.editable_mode:
            return
        for package, lock in (("ktls_control", "control.lock"), ("ktls_host", "host.lock")):
            # A release that is built from an export of the sources was told by whoever exported them.
            told = buildinfo.of_file(ROOT / f"{package}.{buildinfo.FILE}")
            found = told or buildinfo.of_tree(ROOT, lock)
            target = Path(self.build_lib) / package / buildinfo.FILE
            target.write_text(found.text(), encoding="utf-8")


setup(cmdclass={"build_py": WithBuildInfo})
