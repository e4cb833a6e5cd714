#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: one drill of one host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_drill
short_description: Switch kTLS on and off again on a host, and show that it is as it was
version_added: 0.1.0
description:
  - Orders O(phase) with a short lease, has the agent prove it, switches off with C(ktls-off) as a person on the host
    would, waits until no connection is kTLS, takes its off flag down, and compares files, module and network cards
    with what they were. Tries what new keys (KeyUpdate) do to kernel TLS on this host.
  - With O(phase=hw) the network card has to show by its own byte counters that it encrypts; afterwards its features and
    the versions that clients negotiate must be as before. Its own download never comes to a card, so others have to
    download meanwhile. Where C(ktls_probe_url) is set for the host, the control node does, and checks what it gets.
  - A drill that fails leaves the host on userspace TLS. One that dies is taken back by the lease.
  - On the control node the result is kept for C(ktls plan), in C(drills.json) of the fleet; the agent keeps it too.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  force:
    description:
      - Also drill where an order is pending or kTLS is committed. The drill takes that away, and the host stays on
        userspace TLS until it is ordered again.
    type: bool
    default: false
  lease_s:
    description: How many seconds the drill's order holds if the drill dies.
    type: float
    default: 60.0
  drain_s:
    description: How many seconds the connections that took kTLS may take to end.
    type: float
    default: 60.0
  phase:
    description: The phase that is tried.
    type: str
    choices: [tx, hw]
    default: tx
  card_s:
    description: How many seconds the card may take to encrypt something, with O(phase=hw).
    type: float
    default: 60.0
  keyupdate:
    description: Try what new keys do on this kernel and OpenSSL.
    type: bool
    default: true
  fleet:
    description:
      - Name under which the control node keeps the result. Not given, it follows from inventory and O(group); empty,
        nothing is kept there.
    type: str
  group:
    description: Group of the inventory that the fleet is.
    type: str
    default: ktls_hosts
  socket:
    description: The agent's socket.
    type: path
    default: /run/ktls-agent/agent.sock
  sidecar_socket:
    description: The sidecar's control socket.
    type: path
    default: /run/ktls-sidecar/control.sock
  off_command:
    description: The program that switches off.
    type: path
    default: /usr/local/sbin/ktls-off
attributes:
  check_mode:
    support: full
    description: Nothing is drilled, and nothing is kept.
  diff_mode:
    support: none
    description: A drill that passes changes nothing.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Needs root on the host.
seealso:
  - module: ktls.fleet.ktls_order
"""

EXAMPLES = r"""
- name: Drill
  ktls.fleet.ktls_drill:
  register: drilled
"""

RETURN = r"""
drill:
  description:
    - What came of it. C(ok), C(at) (Unix time of its end), C(step) and C(why) of what did not pass, C(refused) when
      nothing was touched.
    - C(durations) in seconds. C(enable_s) until kTLS was proved, C(off_s) until new connections were userspace,
      C(drained_s) until no connection was kTLS, C(total_s).
    - Of O(phase=hw) C(card) is what the card did since the order, C(protocol) what the agent's download negotiates, and
      C(durations.card_s) how long the card's bytes took.
    - C(keyupdate) says for each direction what kinds of new keys do, over all ciphers that the kernel takes.
    - C(compared) is the number of things compared, C(differences) what is not as it was, C(left) what the host is left
      in where that is not what it was.
  returned: always
  type: dict
  sample:
    id: drill-5d3c1c1f0f7f
    ok: true
    at: 1790000000.0
    step: ''
    why: ''
    refused: false
    durations: {enable_s: 1.4, off_s: 0.1, drained_s: 2.2, total_s: 6.0}
    keyupdate: {done: true, ciphers: 8, tx: {peer: ok, peer_requested: breaks, own: breaks}, rx: null}
    compared: 61
    differences: []
    left: ''
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: drill_drain
"""

import uuid

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.drill.host import Host
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.drill.model import Wish
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.drill.run import drill


def main() -> None:
    """Drill, and return what came of it."""
    module = AnsibleModule(
        argument_spec={
            "force": {"type": "bool", "default": False},
            "lease_s": {"type": "float", "default": 60.0},
            "drain_s": {"type": "float", "default": 60.0},
            "phase": {"type": "str", "choices": ["tx", "hw"], "default": "tx"},
            "card_s": {"type": "float", "default": 60.0},
            "keyupdate": {"type": "bool", "default": True},
            "fleet": {"type": "str"},
            "group": {"type": "str", "default": "ktls_hosts"},
            "socket": {"type": "path", "default": "/run/ktls-agent/agent.sock"},
            "sidecar_socket": {"type": "path", "default": "/run/ktls-sidecar/control.sock"},
            "off_command": {"type": "path", "default": "/usr/local/sbin/ktls-off"},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, msg="a drill shows only what really ran")
    wanted = {name: module.params[name] for name in ("force", "lease_s", "drain_s", "keyupdate", "phase", "card_s")}
    host = Host(*(module.params[name] for name in ("socket", "sidecar_socket", "off_command")))
    result = drill(host, Wish(f"drill-{uuid.uuid4().hex[:12]}", **wanted))
    if not result.ok:
        left = f" The host is left in {result.left}." if result.left else ""
        module.fail_json(msg=f"{result.step}: {result.why}.{left}", error_code=result.code, drill=result.as_dict())
    module.exit_json(changed=bool(result.left), drill=result.as_dict())


if __name__ == "__main__":
    main()
