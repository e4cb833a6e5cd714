# SPDX-License-Identifier: Apache-2.0
"""A local connection that can be cut: a host is unreachable while its ``cut`` file exists."""

from __future__ import annotations

DOCUMENTATION = """
name: fakehost
short_description: Local connection that can be cut
description:
  - Runs on the control node; raises a connection failure while the file named by O(cut_file) exists.
  - Notes commands beside that file, in C(sent.jsonl), with how much was on their standard input.
  - Options for C(become) are the local connection's.
extends_documentation_fragment:
  - connection_pipelining
options:
  cut_file:
    description: While this file exists the host cannot be reached.
    type: path
    vars:
      - name: fakehost_cut_file
  become_success_timeout:
    description: Seconds to wait for whatever becomes another user.
    type: int
    default: 10
  become_strip_preamble:
    description: What it says before the command's own output is left out.
    type: bool
    default: true
"""

import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as LocalConnection


class Connection(LocalConnection):  # type: ignore[misc]
    """See the documentation above."""

    transport = "fakehost"

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> Any:
        """Run a command, unless the host is cut off."""
        cut_file = Path(str(self.get_option("cut_file")))
        if cut_file.exists():
            raise AnsibleConnectionFailure("the link is down")
        with open(cut_file.with_name("sent.jsonl"), "a") as log:
            log.write(json.dumps({"command": str(cmd), "input": len(in_data or b"")}) + "\n")
        return super().exec_command(cmd, in_data=in_data, sudoable=sudoable)

    def reset(self) -> None:
        """Nothing is kept between commands."""
