# SPDX-License-Identifier: Apache-2.0
"""A local connection that can be cut: a host is unreachable while its ``cut`` file exists."""

from __future__ import annotations

DOCUMENTATION = """
name: fakehost
short_description: Local connection that can be cut
description: Runs on the control node; raises a connection failure while the file named by O(cut_file) exists.
options:
  cut_file:
    description: While this file exists the host cannot be reached.
    type: path
    vars:
      - name: fakehost_cut_file
"""

import os
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as LocalConnection


class Connection(LocalConnection):  # type: ignore[misc]
    """See the documentation above."""

    transport = "fakehost"

    def exec_command(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command, unless the host is cut off."""
        if os.path.exists(str(self.get_option("cut_file"))):
            raise AnsibleConnectionFailure("the link is down")
        return super().exec_command(*args, **kwargs)

    def reset(self) -> None:
        """Nothing is kept between commands."""
