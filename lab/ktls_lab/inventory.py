# SPDX-License-Identifier: Apache-2.0
"""A running lab as an Ansible inventory (the script protocol). Standard library only."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from typing import Any

from ktls_lab import sshfiles, state
from ktls_lab.errors import LabError
from ktls_lab.paths import DEFAULT_LAB, lab_dir
from ktls_lab.state import LabState

GROUP = "ktls_hosts"


def host_vars(lab: LabState, name: str) -> dict[str, Any]:
    """Return the variables of one host; LabError if the lab has none of this name."""
    host = lab.host(name)
    directory = lab_dir(lab.name)
    return {
        "ansible_host": "127.0.0.1",
        "ansible_port": host.ssh_port,
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_common_args": f"-F {shlex.quote(str(directory / sshfiles.SSH_CONFIG))}",
        "ktls_sidecar_server_name": host.fqdn,
        "ktls_probe_url": f"https://127.0.0.1:{host.https_port}",
        "ktls_sidecar_ca_dir": str(directory / "ca"),
        "ktls_lab_name": lab.name,
        "ktls_lab_image": host.image,
        "ktls_lab_address": host.address,
        "ktls_sentinel_address": host.address,
        "ktls_lab_ssh_config": str(directory / sshfiles.SSH_CONFIG),
    }


def inventory(lab: LabState) -> dict[str, Any]:
    """Return the whole inventory, as ``--list`` prints it."""
    hosts = [host.name for host in lab.hosts]
    return {
        "_meta": {"hostvars": {name: host_vars(lab, name) for name in hosts}},
        "all": {"children": [GROUP]},
        GROUP: {"hosts": hosts},
    }


def main(arguments: list[str] | None = None) -> int:
    """Answer Ansible; the lab's name comes from KTLS_LAB."""
    parser = argparse.ArgumentParser(prog="inventory/lab", description="Ansible inventory of a running lab")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="all groups, hosts and variables")
    what.add_argument("--host", metavar="NAME", help="the variables of one host")
    options = parser.parse_args(arguments)
    try:
        lab = state.load(os.environ.get("KTLS_LAB") or DEFAULT_LAB)
        if not lab.ready:
            message = f"lab '{lab.name}' is not up (yet): wait for 'ktls lab up', or 'ktls lab down --name {lab.name}'"
            raise LabError(message)
        answer = inventory(lab) if options.list else host_vars(lab, options.host)
    except LabError as error:
        sys.stderr.write(f"inventory/lab: {error}\n")
        return 1
    sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    return 0
