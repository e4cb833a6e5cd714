#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: everything that a gate needs to know of a host, in one answer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_evidence
short_description: Read what a gate judges a host by, in one go
version_added: 0.1.0
description:
  - Has the agent download its probe object, and returns its status with that, and the series of samples that it keeps.
  - Changes nothing.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  series:
    description: Also return the agent's series of samples, baseline included.
    type: bool
    default: true
  since_s:
    description: Only samples that end after this moment, in seconds of the host's CLOCK_BOOTTIME.
    type: float
  socket:
    description: The agent's socket.
    type: path
    default: /run/ktls-agent/agent.sock
  timeout_s:
    description: How many seconds to wait for each answer of the agent.
    type: float
    default: 60.0
attributes:
  check_mode:
    support: full
    description: Works the same in check mode.
  diff_mode:
    support: none
    description: Changes nothing, so there is nothing to show.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
seealso:
  - module: ktls.fleet.ktls_order
"""

EXAMPLES = r"""
- name: Read status, probe and series
  ktls.fleet.ktls_evidence:
  register: ktls_seen
"""

RETURN = r"""
status:
  description: The agent's status with a fresh probe.
  returned: success
  type: dict
  sample: {phase: tx, order: pending, epoch: 7}
series:
  description: The agent's series, all pages as one. Null when it was not asked for, or could not be had.
  returned: success
  type: dict
  sample: {boot_id: 0a1b, now_s: 5000.5, period_s: 5.0, ordered_at_s: 4900.0, samples: {}, arms: {}}
series_error:
  description: Why there is no series, in one line.
  returned: success
  type: str
  sample: the agent does not know the verb series
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: unreachable
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import order, task
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError


def main() -> None:
    """Ask for a probe, then for the series."""
    module = AnsibleModule(
        argument_spec={
            "series": {"type": "bool", "default": True},
            "since_s": {"type": "float"},
            "socket": {"type": "path", "default": order.AGENT_SOCKET},
            "timeout_s": {"type": "float", "default": task.TIMEOUT_S},
        },
        supports_check_mode=True,
    )
    try:
        done = task.do_evidence(module.params)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    module.exit_json(**done)


if __name__ == "__main__":
    main()
