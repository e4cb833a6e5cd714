#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: TLS offload of network cards, now and whenever the link comes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_offload
short_description: Switch TLS offload of network cards on or off, now and for every time that the link comes
version_added: 0.1.0
description:
  - Sets the features C(tls-hw-tx-offload) and C(tls-hw-rx-offload) of network interfaces with C(ethtool -K), reads
    them back, and puts everything back when they did not take.
  - Refuses to switch on what the driver does not implement, and names the drivers that do. Switching off is never
    refused, and is no change where a driver has no TLS offload.
  - Acts on the slaves of a bond. The kernel offloads through a bond only in mode C(802.3ad) or C(balance-xor) with
    C(xmit_hash_policy) C(layer3+4), and never through a VLAN, bridge or team; these are refused.
  - Records every changeable feature of an interface before it changes the first one. O(state=absent) puts back what
    it changed, and what changed along with it, and leaves alone what somebody else changed meanwhile.
  - Only new connections follow a change. One that is offloaded stays so until it closes.
  - The Linux kernel offloads TLS 1.2 with AES-GCM only, in both directions. TLS 1.3 stays in software.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  interfaces:
    description:
      - The interfaces to act on, by name. With an empty list there is nothing to do.
    type: list
    elements: str
  driver:
    description:
      - Act on all interfaces with this driver, for example V(mlx5_core).
    type: str
  default_route:
    description:
      - V(true) acts on the interfaces that carry a default route in the main routing table, IPv4 or IPv6.
    type: bool
  tx:
    description:
      - Whether the card encrypts what is sent. Left out, this is not touched.
      - With O(state=present) one of O(tx) and O(rx) is needed.
    type: bool
  rx:
    description:
      - Whether the card decrypts what is received. Left out, this is not touched.
      - Do not take a link down while this is on. Kernels have crashed when that happened.
      - Changing it reopens the channels of some cards, which interrupts traffic for a moment.
    type: bool
  persistent:
    description:
      - V(true) writes a udev rule that sets the feature whenever the link comes, at boot, when the driver is loaded
        again, and when a link is made again or gets this name. V(false) removes that rule.
      - A udev rule, because C(systemd.link) has no key for TLS offload. The file is
        C(/etc/udev/rules.d/90-ktls-fleet-offload-INTERFACE.rules), which this module owns as a whole. udev checks it
        before it becomes visible where its version can (systemd 254 and later).
      - udev sees the links of the host, not those inside other network namespaces.
    type: bool
    default: true
  state:
    description:
      - V(present) sets what O(tx) and O(rx) say.
      - V(absent) puts features and rule file back as they were recorded, of the interfaces that O(interfaces),
        O(driver) or O(default_route) names, and of all that have a record when none is named. An interface without a
        record was not changed and is left alone, whatever its name.
    type: str
    choices: [present, absent]
    default: present
  edited:
    description:
      - What O(state=absent) does about a rule file that somebody edited meanwhile.
      - V(refuse) fails and changes nothing. V(keep) leaves the file as it is and puts back the rest.
      - O(state=present) never overwrites such a file, and fails.
    type: str
    choices: [refuse, keep]
    default: refuse
attributes:
  check_mode:
    support: full
    description: Predicts the change, and fails where the real run would refuse.
  diff_mode:
    support: full
    description: Shows the features that were asked for and the rule files. What else the kernel changes along is not
      known before, and is in RV(changed_features) afterwards.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
requirements:
  - ethtool on the host
  - udev on the host, with O(persistent=true)
notes:
  - Needs root.
  - The features that TLS offload depends on, C(tx-checksum-*) and C(rx-checksumming), have to be on already.
seealso:
  - module: ktls.fleet.ktls_info
  - module: ktls.fleet.ktls_module
"""

EXAMPLES = r"""
- name: Let the cards that carry the default route encrypt, now and after every boot
  ktls.fleet.ktls_offload:
    default_route: true
    tx: true

- name: Keep ConnectX cards, which encrypt by default, from it, so that software really is software
  ktls.fleet.ktls_offload:
    driver: mlx5_core
    tx: false
    rx: false

- name: Try one card until the next reboot
  ktls.fleet.ktls_offload:
    interfaces: [enp65s0f0np0]
    tx: true
    persistent: false

- name: Put every card back as it was
  ktls.fleet.ktls_offload:
    state: absent
"""

RETURN = r"""
steps:
  description: What was done, or what check mode would do, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - code: set_features
      description: ethtool -K enp65s0f0np0 tls-hw-tx-offload on
  contains:
    code:
      description: One of V(set_features), V(persist), V(unpersist), V(restore_features), V(restore_file),
        V(reload_udev).
      type: str
      returned: always
    description:
      description: The same in words.
      type: str
      returned: always
changed_features:
  description:
    - Every feature that changed, also those that the kernel changed along. In check mode, those that were asked for.
  returned: success
  type: list
  elements: dict
  sample:
    - interface: enp65s0f0np0
      feature: tls-hw-tx-offload
      before: "off"
      after: "on"
      asked: true
  contains:
    interface:
      description: Name of the interface.
      type: str
      returned: always
    feature:
      description: Name of the feature, as ethtool has it.
      type: str
      returned: always
    before:
      description: The feature as C(ethtool -k) showed it before, for example V(off [requested on]).
      type: str
      returned: always
    after:
      description: The same afterwards.
      type: str
      returned: always
    asked:
      description: Whether the module requested it. V(false) for what the kernel changed along.
      type: bool
      returned: always
left_alone:
  description: With O(state=absent), what somebody else changed meanwhile and what therefore stays as it is.
  returned: success
  type: list
  elements: dict
  sample:
    - what: enp65s0f0np0 rx-gro-list
      now: "on"
      recorded: "off"
      why: changed by somebody else meanwhile
  contains:
    what:
      description: The interface and feature, or the file.
      type: str
      returned: always
    now:
      description: What it is now.
      type: str
      returned: always
    recorded:
      description: What it was when it was recorded.
      type: str
      returned: always
    why:
      description: Why it was left alone.
      type: str
      returned: always
interfaces:
  description: The interfaces that were acted on, and bonds above them, as they were read back last. In check mode that
    is before any change.
  returned: success
  type: list
  elements: dict
  sample:
    - name: enp65s0f0np0
      kind: physical
      driver: mlx5_core
      driver_version: 6.12.48+deb13-amd64
      firmware: 22.41.1000 (MT_0000000359)
      bus: "0000:41:00.0"
      up: true
      mac: "0c:42:a1:00:00:01"
      carries_default_route: true
      lowers: []
      bond: null
      features:
        tls-hw-tx-offload: {"on": true, fixed: false, requested: true}
        tls-hw-rx-offload: {"on": false, fixed: false, requested: false}
      implements: {tx: true, rx: true}
      counters: {tx_tls_encrypted_packets: 0}
      ethtool: present
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: nic_no_tls_offload
"""


from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.nic import lever, restore
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.nic.targets import DesiredOffload

ARGUMENTS: dict[str, dict[str, Any]] = {
    "interfaces": {"type": "list", "elements": "str"},
    "driver": {"type": "str"},
    "default_route": {"type": "bool"},
    "tx": {"type": "bool"},
    "rx": {"type": "bool"},
    "persistent": {"type": "bool", "default": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "edited": {"type": "str", "choices": ["refuse", "keep"], "default": "refuse"},
}


def main() -> None:
    """Bring the interfaces to what is asked, or back to what was recorded."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        mutually_exclusive=[("interfaces", "driver", "default_route")],
        required_if=[
            ("state", "present", ("interfaces", "driver", "default_route"), True),
            ("state", "present", ("tx", "rx"), True),
        ],
        supports_check_mode=True,
    )
    given, check = module.params, module.check_mode
    desired = DesiredOffload(
        interfaces=None if given["interfaces"] is None else tuple(given["interfaces"]),
        driver=given["driver"],
        default_route=bool(given["default_route"]),
        tx=given["tx"],
        rx=given["rx"],
        persistent=given["persistent"],
    )
    try:
        if given["state"] == "present":
            outcome = lever.present(desired, check=check)
        else:
            outcome = restore.absent(desired, keep_edited=given["edited"] == "keep", check=check)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    module.exit_json(
        changed=outcome.changed,
        steps=[step.as_dict() for step in outcome.steps],
        diff=list(outcome.diff),
        changed_features=list(outcome.changed_features),
        left_alone=list(outcome.left_alone),
        interfaces=list(outcome.interfaces),
    )


if __name__ == "__main__":
    main()
