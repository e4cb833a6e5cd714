# SPDX-License-Identifier: Apache-2.0
# ktls_request is an action plugin (plugins/action/ktls_request.py); this file holds its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ktls_request
short_description: Refuse a wrong request before any host is touched
description:
  - Checks group, phase, waves and lease on the control node and fails with one line that names the cure.
  - For C(off) and C(undeploy) it also tells a rollout under way to end, and does not wait for it.
version_added: 0.1.0
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  verb:
    description: What the playbook is about to do.
    type: str
    required: true
  group:
    description: Group of the inventory that it is about to do it to.
    type: str
    required: true
  phase:
    description: Phase that is asked for.
    type: str
  waves:
    description: Sizes of the waves, counts or percentages.
    type: list
    elements: raw
  soak_max_s:
    description: Longest soak of a wave in seconds.
    type: float
  lease_s:
    description: Length of the lease in seconds.
    type: float
  sources:
    description: Inventories whose rollouts are to end; for C(off) and C(undeploy).
    type: list
    elements: str
    default: []
  reason:
    description: Why they end; for C(off) and C(undeploy).
    type: str
    default: "off"
  consent:
    description: Whether somebody said that it is meant; for C(undeploy), outside check mode.
    type: bool
    default: false
attributes:
  check_mode:
    description: Works the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Check the request
  ktls.fleet.ktls_request:
    verb: rollout
    phase: tx
    group: ktls_hosts
"""

RETURN = r"""
told:
  description: Rollouts that were told to end.
  returned: for C(off) and C(undeploy), not in check mode
  type: list
  elements: str
  sample: []
request_id:
  description: Identifies this request; the orders that follow carry it.
  returned: success
  type: str
  sample: 5d3c1c1f0f7f4d6f8a6c0b2f5f1f9a31
plan_sha256:
  description: Digest of what was asked for; the same request has the same digest.
  returned: success
  type: str
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
error_code:
  description: Stable name of what was wrong.
  returned: failure
  type: str
  sample: no_group
"""
