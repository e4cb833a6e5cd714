# SPDX-License-Identifier: Apache-2.0
"""Faults of the control node, put into a playbook from outside: at an event of a journal it dies, or its disk fills."""

from __future__ import annotations

DOCUMENTATION = """
name: faulty
type: notification
short_description: Faults of the control node
description: Does nothing unless a fault is named in the environment.
"""

import errno
import os
import signal
import time
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """``KTLS_TEST_KILL=EVENT``: SIGKILL as soon as it is written. ``KTLS_TEST_FULL=EVENT``: no space from there on."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "faulty"
    CALLBACK_NEEDS_ENABLED = False

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Before any task: the processes of tasks are copies of this one."""
        kill, full = os.environ.get("KTLS_TEST_KILL"), os.environ.get("KTLS_TEST_FULL")
        if not (kill or full):
            return
        from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.journal import Journal

        write = Journal._write

        def faulty(journal: Any, line: bytes) -> None:
            if full and (f'"event":"{full}"'.encode() in line or _full) and journal._reserve.exists():
                _full.append(full)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(journal, line)
            if kill and f'"event":"{kill}"'.encode() in line:
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)  # the step dies with its parent, or the test with it

        Journal._write = faulty


_full: list[str] = []
