# SPDX-License-Identifier: Apache-2.0
"""Where the playbooks are that this command drives: in the checkout that it runs from, or installed beside it.

::

    CHECKOUT/control/ktls_control/tree.py            CHECKOUT/playbooks
    site-packages/ktls_control/tree.py               site-packages/ansible_collections/ktls/fleet/playbooks
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import ControlError

_CHECKOUT = Path(__file__).resolve().parents[2]
_SITE = Path(__file__).resolve().parents[1]
#: What a fleet wants of Ansible, for operators without a configuration of their own; made when the wheel is built.
_SETTINGS = Path(__file__).with_name("ansible.cfg")


@dataclass(frozen=True)
class Tree:
    """Playbooks, and how Ansible finds what they use.

    :param directory: holds ``playbooks/``.
    :param site: where ``ansible_collections`` was installed; None for a checkout.
    """

    directory: Path
    site: Path | None = None

    def playbook(self, verb: str) -> Path:
        """The playbook of a verb."""
        return self.directory / "playbooks" / f"{verb}.yml"

    def working_directory(self) -> Path:
        """Where playbooks are run: relative names are the operator's, but in a checkout those of the checkout."""
        return Path.cwd() if self.site else self.directory

    def environment(self) -> dict[str, str]:
        """What Ansible is told besides the operator's own environment."""
        if self.site is None:
            return {"ANSIBLE_CONFIG": str(self.directory / "ansible.cfg")}
        from ansible.config.manager import ConfigManager, find_ini_config_file

        config = find_ini_config_file()
        found = ConfigManager(config).get_config_value("COLLECTIONS_PATHS") if config else []
        theirs = os.environ.get("ANSIBLE_COLLECTIONS_PATH") or ":".join(found)
        # First, or Ansible would take another version of this collection from where the operator installed one.
        paths = f"{self.site}:{theirs or '~/.ansible/collections:/usr/share/ansible/collections'}"
        return {"ANSIBLE_COLLECTIONS_PATH": paths, **({} if config else {"ANSIBLE_CONFIG": str(_SETTINGS)})}


def find(checkout: Path = _CHECKOUT, site: Path = _SITE) -> Tree:
    """The tree of this installation.

    :raises ControlError: ``no_collection``.
    """
    if (checkout / "playbooks").is_dir() and (checkout / "ansible.cfg").is_file():
        return Tree(checkout)
    installed = site / "ansible_collections" / "ktls" / "fleet"
    if (installed / "playbooks").is_dir():
        return Tree(installed, site)
    cure = "install the wheel of a release, or `pip install .` in a checkout"
    raise ControlError("no_collection", f"{site}: ktls was installed without its playbooks: {cure}")


def checkout() -> Path | None:
    """The checkout that this runs from, if it does."""
    return _CHECKOUT if (_CHECKOUT / "ansible.cfg").is_file() else None


def log_directory() -> Path:
    """Where Ansible's own output of a verb goes: ``build/log`` here, or with the state where this is installed."""
    from .rollout.store import state_dir

    return Path("build/log") if checkout() else state_dir() / "log"


def ansible(program: str) -> list[str]:
    """The command line of ``ansible-PROGRAM``, that of this Python."""
    beside = Path(sys.executable).with_name(f"ansible-{program}")
    # pip install --user and friends put programs elsewhere.
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "ansible", program]
