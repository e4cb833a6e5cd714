# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: a wheel brings the collection along, in ``ansible_collections`` beside its packages.

And it says which commit and which lock it was made of, for ``ktls --version``.

So that ``pip install`` gives ``ktls``, playbooks, roles and the release for hosts of one version. Ansible finds
a collection there too. The lab stays in the checkout. An editable installation is the checkout.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from configparser import RawConfigParser
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
#: Runs on control nodes; what runs on hosts travels in the release, which is in the collection.
PACKAGES = ("ktls_control", "ktls_host")
#: Settings of ``ansible.cfg`` that are about this checkout.
OF_THE_CHECKOUT = (
    "inventory",
    "library",
    "roles_path",
    "action_plugins",
    "callback_plugins",
    "filter_plugins",
    "collections_path",
)


class BuildPy(build_py):
    """Builds the packages of a control node, and the collection beside them."""

    def finalize_options(self) -> None:
        """Leave out what only a checkout has a use for."""
        super().finalize_options()
        if not self.editable_mode:
            self.packages = [name for name in self.packages if name.split(".")[0] in PACKAGES]

    def run(self) -> None:
        """Build; nothing of an earlier build stays."""
        if self.editable_mode:
            super().run()
            return
        library = Path(self.build_lib)
        shutil.rmtree(library, ignore_errors=True)
        super().run()
        sys.path[:0] = [str(ROOT), str(ROOT / "agent")]
        from ktls_host import buildinfo
        from tools import collection

        made_of = buildinfo.of_tree(ROOT, "control.lock")
        (library / "ktls_control" / buildinfo.FILE).write_text(made_of.text(), encoding="utf-8")

        with tempfile.TemporaryDirectory(prefix="ktls-wheel-") as scratch:
            collection.install(collection.build(Path(scratch), ROOT), library)
        settings(ROOT / "ansible.cfg", library / "ktls_control" / "ansible.cfg")


def settings(source: Path, target: Path) -> None:
    """Write what of ``ansible.cfg`` holds outside of the checkout."""
    parser = RawConfigParser()
    parser.read(source)
    for name in OF_THE_CHECKOUT:
        parser.remove_option("defaults", name)
    with open(target, "w", encoding="utf-8") as file:
        parser.write(file)


setup(cmdclass={"build_py": BuildPy})
