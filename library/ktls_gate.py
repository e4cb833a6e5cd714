# SPDX-License-Identifier: Apache-2.0
# ktls_gate is an action plugin (plugins/action/ktls_gate.py); this file holds its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ktls_gate
short_description: Soak a host, then judge whether its wave may go on
description:
  - Waits on the control node, reads the host once, and fails unless every check passed.
  - Missing data is inconclusive and never a pass. While there is too little traffic to judge, the soak is extended
    up to O(soak_max_s).
version_added: 0.1.0
author: ktls-fleet maintainers (@ktls-fleet)
options:
  phase:
    description: Phase that was ordered.
    type: str
    required: true
    choices: [userspace, tx, rx]
  before:
    description: RV(ignore:status) of M(ktls.fleet.ktls_order) right after the order.
    type: dict
    required: true
  socket:
    description: Socket of the agent on the host.
    type: path
  soak_s:
    description: Seconds to wait at least.
    type: float
    default: 20.0
  soak_max_s:
    description: Seconds to wait at most for enough traffic.
    type: float
    default: 60.0
  min_share:
    description: Smallest share of the bytes that must take the path of the phase, 0 to 1.
    type: float
    default: 0.99
  min_bytes:
    description: Bytes that must be served during the soak before the share means anything.
    type: int
    default: 1000000
  url:
    description: Base URL of the host as the control node reaches it; a download from there is then part of the gate.
    type: str
  server_name:
    description: Name to verify when the URL holds an address.
    type: str
  ca_file:
    description: Certificate authority to trust for the URL, a file on the control node.
    type: path
attributes:
  check_mode:
    description: In check mode nothing is judged.
    support: full
  diff_mode:
    description: Changes nothing, so there is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Soak and judge
  ktls.fleet.ktls_gate:
    phase: tx
    before: "{{ ordered.status }}"
    soak_s: 60
    min_bytes: 100000000
"""

RETURN = r"""
ktls_gate:
  description: The verdict with every check behind it.
  returned: always
  type: dict
  sample:
    outcome: pass
    reason: all checks passed
    share: 0.9987
    bytes_on_path: 41220094
    bytes_total: 41273001
    checks:
      - {name: share, outcome: pass, detail: "99.87 % of 41273001 bytes by ktls_tx"}
"""
