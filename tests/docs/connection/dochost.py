# SPDX-License-Identifier: Apache-2.0
"""A host of the documentation: a fake agent on a socket of this machine, and a probe whose answer is in a file."""

from __future__ import annotations

DOCUMENTATION = """
name: dochost
short_description: Answers the probe from a file, lets questions to a fake agent through, refuses everything else
description:
  - What would change a host is refused, so that no page of the documentation can change the machine it is tested on.
options:
  answer_file:
    description: File with the result of C(ktls_info) as JSON.
    type: path
    required: true
    vars:
      - name: dochost_answer_file
"""

import re
from pathlib import Path

from ansible.plugins.connection.local import Connection as LocalConnection

#: What only talks to the agent's socket.
_ASKING = ("ktls_order",)


class Connection(LocalConnection):  # type: ignore[misc]
    """See the documentation above."""

    transport = "dochost"

    def is_pipelining_enabled(self, wrap_async: bool = False) -> bool:
        """Modules come on standard input, as over SSH in this project's configuration."""
        return True

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Answer, pass on, or refuse."""
        sent = (in_data or b"").decode()
        found = re.search(r"^ansible_module='(?:[\w]+\.)*(\w+)',", sent, re.MULTILINE)
        module = found[1] if found else None
        if module == "ktls_info":
            return 0, Path(str(self.get_option("answer_file"))).read_bytes(), b""
        if module in _ASKING or "zipapp_main.py agent task" in str(cmd):
            done: tuple[int, bytes, bytes] = super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
            return done
        told = f"a host of the documentation does not do {module or cmd}: mark the block with <!-- not run: hosts -->"
        return 1, b"", told.encode()
