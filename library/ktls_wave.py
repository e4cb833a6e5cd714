# SPDX-License-Identifier: Apache-2.0
# ktls_wave is an action plugin (plugins/action/ktls_wave.py); this file holds its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ktls_wave
short_description: What one host of a wave does next
description:
  - Has the agent's command line do what M(ktls.fleet.ktls_order) or M(ktls.fleet.ktls_evidence) would, once. No
    module is sent to the host, unless the connection cannot pipeline.
  - Keeps the answer in the directory of the run, for M(ktls.fleet.ktls_rollout), and returns little of it.
version_added: 0.1.0
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  step:
    description:
      - V(order) asks for the phase. A host that is not what was planned for refuses before it changes anything.
      - V(evidence) reads status, a fresh probe and the series of samples. From a host with a URL it downloads, too.
      - V(confirm) makes the order durable; a host that has failed within the failure budget goes back instead.
      - V(back) takes the host back to userspace, if the order in force is one of this wave.
    type: str
    required: true
    choices: [order, evidence, confirm, back]
  wave:
    description: File of the wave, as M(ktls.fleet.ktls_rollout) returned it.
    type: path
    required: true
attributes:
  check_mode:
    description: V(order) predicts, the others do nothing.
    support: full
  diff_mode:
    description: Shows phase, order, epoch and off flag, before and after.
    support: full
"""

EXAMPLES = r"""
- name: Order
  ktls.fleet.ktls_wave:
    step: order
    wave: "{{ ktls_wave.file }}"
"""

RETURN = r"""
status:
  description: Of the agent's status, what is in force.
  returned: success
  type: dict
  sample: {phase: tx, order: pending, epoch: 7, lease_left_s: 119.8}
error_code:
  description: Stable name of what was wrong.
  returned: failure
  type: str
  sample: facts_drifted
"""
