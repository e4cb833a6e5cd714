#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a thin client of the agent on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_order
short_description: Ask the agent of a host for a phase, confirm it, take it back, or read it
version_added: 0.1.0
description:
  - Talks to C(ktls-agent) on the host over its Unix socket and returns the agent's status.
  - An order is provisional. Unless it is confirmed within its lease, the host takes itself back to userspace.
  - An unreachable agent is a failure with one clear line, never a guess.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  state:
    description:
      - V(observed) only reads.
      - V(ordered) asks for O(phase). Nothing changes when the same order is pending or committed already.
      - V(confirmed) makes the pending order durable.
      - V(extended) lets the pending order O(id) hold O(lease_s) seconds from now on. It is never shortened.
      - V(cancelled) takes the host back to userspace if O(id) is the pending order, and does nothing to another.
      - V(reverted) takes the host back to userspace and drops the order. With O(id), only if the order is that one.
      - V(switched_off) raises the off flag. Everything is userspace, and orders for kTLS are refused, until V(cleared).
      - V(cleared) removes the off flag. The host stays in userspace.
    type: str
    choices: [observed, ordered, confirmed, extended, cancelled, reverted, switched_off, cleared]
    default: observed
  phase:
    description: The phase to order. Needed for O(state=ordered).
    type: str
    choices: [userspace, tx, rx, hw]
  id:
    description:
      - The name of the rollout that orders.
      - Needed for O(state=ordered), O(state=confirmed), O(state=extended) and O(state=cancelled).
    type: str
  epoch:
    description:
      - The number of the rollout, which only grows. A host refuses a smaller one than it has seen.
      - Needed where O(id) is.
    type: int
  lease_s:
    description: How many seconds the order holds without being confirmed.
    type: float
    default: 60.0
  plan_sha256:
    description: The digest of the plan that the order comes from, kept with it.
    type: str
    default: ''
  facts:
    description:
      - What the host was when the rollout was planned, by name (C(kernel), C(openssl), C(agent), C(sidecar)).
      - For O(state=ordered). A host that is another one now refuses, and nothing is changed.
    type: dict
  experiment:
    description:
      - While the order is pending, not every new connection takes O(phase), so that both can be compared on this host.
      - It ends with the confirmation, before which every new connection takes the phase, and with whatever takes the
        order back.
      - For O(state=ordered) of V(tx), V(rx) and V(hw).
    type: dict
    suboptions:
      method:
        description: V(switchback) takes turns, in blocks. V(connections) draws for each connection.
        type: str
        choices: [switchback, connections]
        required: true
      block_s:
        description: Seconds of a block.
        type: float
        default: 30.0
      washout_s:
        description: Seconds at the start of a block that count for nothing.
        type: float
        default: 5.0
      seed:
        description: Decides which of two blocks comes first.
        type: int
        required: true
  end_experiment:
    description: With O(state=extended), end the experiment of the order; every new connection takes the phase then.
    type: bool
    default: false
  reason:
    description: Why, for O(state=reverted) and O(state=switched_off). The agent keeps it.
    type: str
    default: ''
  probe:
    description:
      - Also have the agent download its probe object over TLS and check it, and return that in RV(status).
      - Ignored in check mode only where it follows a change that is not made.
    type: bool
    default: false
  socket:
    description: The agent's socket.
    type: path
    default: /run/ktls-agent/agent.sock
  timeout_s:
    description: How many seconds to wait for each answer of the agent. For an order it starts helpers and tests itself.
    type: float
    default: 60.0
attributes:
  check_mode:
    support: full
    description: Predicts the change from the agent's status, and fails where the agent would refuse the order.
  diff_mode:
    support: full
    description: Shows phase, order, epoch and off flag, before and after.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Everything but O(state=observed) needs root on the host.
  - When the agent is dead, type C(ktls-off) on the host. That works without it.
seealso:
  - module: ktls.fleet.ktls_info
"""

EXAMPLES = r"""
- name: Read the host, with a fresh probe
  ktls.fleet.ktls_order:
    probe: true
  register: ktls_seen

- name: Ask for kTLS transmit
  ktls.fleet.ktls_order:
    state: ordered
    phase: tx
    id: rollout-7
    epoch: 7
    lease_s: 120
    experiment: {method: switchback, block_s: 30, washout_s: 5, seed: 7}

- name: Keep it
  ktls.fleet.ktls_order:
    state: confirmed
    id: rollout-7
    epoch: 7

- name: Everything off on this host
  ktls.fleet.ktls_order:
    state: switched_off
    reason: incident 4711
"""

RETURN = r"""
status:
  description: The agent's status after the call. In check mode, before it.
  returned: success
  type: dict
  sample:
    schema: 1
    version: 0.1.0
    phase: tx
    order: pending
    order_id: rollout-7
    ordered_phase: tx
    epoch: 7
    lease_left_s: 119.8
    revert_reason: null
    revert: []
    stuck: false
    lapsed: false
    'off': {flag: false, age_s: null, reason: null}
    tls_stat: {TlsCurrTxSw: 3}
    tls_stat_available: true
    connections: {ktls_tx: 3, userspace: 0}
    bytes: {ktls_tx: 1048576, userspace: 262144}
error_code:
  description:
    - The name of the failure, for programs. C(unreachable) when nobody answers on the socket, else the agent's own.
  returned: failure
  type: str
  sample: off_latched
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import order, task
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError

_EXPERIMENT = {
    "method": {"type": "str", "choices": ["switchback", "connections"], "required": True},
    "block_s": {"type": "float", "default": 30.0},
    "washout_s": {"type": "float", "default": 5.0},
    "seed": {"type": "int", "required": True},
}


def main() -> None:
    """Read the status, decide, ask, and return what the agent says then."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": list(order.STATES), "default": "observed"},
            "phase": {"type": "str", "choices": list(order.PHASES)},
            "id": {"type": "str"},
            "epoch": {"type": "int"},
            "lease_s": {"type": "float", "default": 60.0},
            "plan_sha256": {"type": "str", "default": ""},
            "facts": {"type": "dict"},
            "experiment": {"type": "dict", "options": _EXPERIMENT},
            "end_experiment": {"type": "bool", "default": False},
            "reason": {"type": "str", "default": ""},
            "probe": {"type": "bool", "default": False},
            "socket": {"type": "path", "default": order.AGENT_SOCKET},
            "timeout_s": {"type": "float", "default": task.TIMEOUT_S},
        },
        required_if=[
            ("state", "ordered", ("phase", "id", "epoch")),
            *(("state", state, ("id", "epoch")) for state in ("confirmed", "extended", "cancelled")),
        ],
        supports_check_mode=True,
    )
    try:
        done = task.do_order(module.params, check=module.check_mode)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    module.exit_json(**done)


if __name__ == "__main__":
    main()
