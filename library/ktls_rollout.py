# SPDX-License-Identifier: Apache-2.0
# ktls_rollout is an action plugin (plugins/action/ktls_rollout.py); this file holds its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ktls_rollout
short_description: One step of a rollout on the control node
description:
  - Plan, lock, epoch and journal of a rollout, and what is decided about its waves. Runs on the control node only.
  - The work on hosts lies between the steps and is done by M(ktls.fleet.ktls_wave). See playbooks/rollout.yml.
version_added: 0.1.0
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  step:
    description:
      - V(begin) takes the lock of the fleet, starts a run or goes on with one, and says whom to go to in which order.
      - V(open) waits for whatever is in the way of a wave, and writes down what is about to be ordered.
      - V(soak) takes down how the orders went, and watches the wave for as long as the plan says.
      - V(judge) judges the wave by its evidence, looks at earlier waves again, and waits for whoever has to decide.
      - V(close) takes down who has confirmed.
      - V(revert) takes down how the way back went, and ends the run. It always fails.
      - V(end) ends a run whose waves are all promoted.
    type: str
    required: true
    choices: [begin, open, soak, judge, close, revert, end]
  run:
    description: Directory of the run, as O(step=begin) returned it. For every other step.
    type: path
  plan:
    description: A plan of C(ktls plan), as its fields or the path of its file. Without one, the options below make it.
    type: raw
  phase:
    description: Phase that is asked for, if there is no O(plan).
    type: str
  group:
    description: Group of the inventory that it is asked of, if there is no O(plan).
    type: str
  waves:
    description: Sizes of the waves, counts or percentages.
    type: list
    elements: raw
  soak_s:
    description: Seconds that each wave is watched at least.
    type: float
    default: 20.0
  soak_max_s:
    description: Seconds to wait at most for enough traffic.
    type: float
    default: 60.0
  min_bytes:
    description: Bytes that each host has to send during a soak.
    type: int
    default: 1000000
  min_share:
    description: Smallest share of the bytes that must take the path of the phase, 0 to 1.
    type: float
    default: 0.99
  lease_s:
    description: Seconds after which an order reverts unless it is confirmed.
    type: float
    default: 180.0
  without_sentinel:
    description:
      - Let phase V(hw) begin though no machine of group C(ktls_sentinels) watches the wire for plaintext.
      - It is recorded.
      - For a rollout without O(plan); a plan says so itself.
    type: bool
    default: false
attributes:
  check_mode:
    description: The same steps over a directory that is thrown away. Nothing is waited for or judged.
    support: full
  diff_mode:
    description: Changes nothing on hosts, so there is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Begin
  ktls.fleet.ktls_rollout:
    step: begin
    plan: plan.yml
  run_once: true
  delegate_to: localhost
  delegate_facts: true
"""

RETURN = r"""
run:
  description: Directory of the run.
  returned: success, for step=begin
  type: str
  sample: /root/.local/state/ktls/ktls_hosts-0a1b2c3d/runs/20261126-060000-tx
ansible_facts:
  description:
    - Fact C(ktls_rollout) with C(run), C(epoch), C(phase), C(hosts) and C(sizes) of the waves, C(resumed), and C(wave),
      the file that says which wave is open, for M(ktls.fleet.ktls_wave).
  returned: success, for step=begin
  type: dict
  sample: {ktls_rollout: {epoch: 7, phase: tx, hosts: [web1], sizes: [1], resumed: false}}
file:
  description: File with all that the tasks of the wave need to know.
  returned: for the steps of a wave
  type: str
  sample: /root/.local/state/ktls/ktls_hosts-0a1b2c3d/runs/20261126-060000-tx/answers/wave-1-1.json
touched:
  description: Hosts of the wave may have been changed, and have to go back when the step failed.
  returned: for the steps of a wave
  type: bool
  sample: true
error_code:
  description: Stable name of what was wrong.
  returned: failure
  type: str
  sample: locked
"""
