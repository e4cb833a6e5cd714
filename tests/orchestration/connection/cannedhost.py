# SPDX-License-Identifier: Apache-2.0
"""A host that is nothing but its answer: whatever module is sent, the result comes from a file."""

from __future__ import annotations

DOCUMENTATION = """
name: cannedhost
short_description: Answers each module with a result from a file
description:
  - Runs nothing. Notes each module and its arguments beside the file, one JSON line each, as what went over the wire.
  - A host whose file holds C(unreachable) cannot be reached, for the reason given there.
options:
  answer_file:
    description: File with the module result as JSON.
    type: path
    required: true
    vars:
      - name: cannedhost_answer_file
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as LocalConnection


class Connection(LocalConnection):  # type: ignore[misc]
    """See the documentation above."""

    transport = "cannedhost"

    def is_pipelining_enabled(self, wrap_async: bool = False) -> bool:
        """Modules come on standard input, as over SSH in this project's configuration."""
        return True

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Note what was sent, and answer."""
        path = Path(str(self.get_option("answer_file")))
        sent = (in_data or b"").decode()
        with open(path.with_suffix(".sent"), "a") as log:
            log.write(json.dumps({"module": _argument(sent, "ansible_module"), "params": _argument(sent, "params")}))
            log.write("\n")
        answer: dict[str, Any] = json.loads(path.read_text())
        if "unreachable" in answer:
            raise AnsibleConnectionFailure(answer["unreachable"])
        return int(bool(answer.get("failed"))), json.dumps(answer).encode(), b""


def _argument(sent: str, name: str) -> Any:
    """An argument of the call that ends what Ansible sends as a module."""
    found = re.search(rf"^{name}=(.*),$", sent, re.MULTILINE)
    return ast.literal_eval(found[1]) if found else None
