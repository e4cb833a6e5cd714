#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: the kernel module tls, loaded now and at boot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_module
short_description: Load or unload the kernel module tls, now and at boot
version_added: 0.1.0
description:
  - Loads or unloads the Linux kernel module C(tls), which kernel TLS (kTLS) needs.
  - Makes the module load at boot, or no longer, through the file C(/etc/modules-load.d/ktls-fleet.conf), which this
    module owns as a whole and writes atomically.
  - Never unloads a module that sockets still use, and reads the state back after every change.
  - A kernel with TLS built in counts as loaded.
  - Records what the host was like before its first change, and puts that back with O(state=absent).
  - The module has no parameters (C(modinfo -F parm tls) prints none), so there are none to set here.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  state:
    description:
      - V(present) makes the host as O(loaded) and O(persistent) say; one of them is needed.
      - V(absent) puts back what was recorded before the first change, whether that was loaded or not, a file of the
        same name or none. Without a record there is nothing to do.
    type: str
    choices: [present, absent]
    default: present
  edited:
    description:
      - What O(state=absent) does with a boot file that somebody else has edited since. It is never overwritten.
      - V(refuse) fails and changes nothing. V(keep) leaves the file as it is from now on, and puts back the rest.
    type: str
    choices: [refuse, keep]
    default: refuse
  loaded:
    description:
      - V(true) loads the module, V(false) unloads it. Left out, this is not touched.
      - Unloading is refused while any socket uses the module. Sockets leave it when their connection closes.
    type: bool
  persistent:
    description:
      - V(true) writes the file that loads the module at boot, V(false) removes it. Left out, this is not touched.
      - V(true) is refused when C(tls) is blacklisted in modprobe.d, because the file would then do nothing.
    type: bool
attributes:
  check_mode:
    support: full
    description: Predicts the change, and fails where the real run would refuse.
  diff_mode:
    support: full
    description: Shows the module's state and the boot file, before and after.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Needs root.
seealso:
  - module: ktls.fleet.ktls_info
"""

EXAMPLES = r"""
- name: Load the module, now and at every boot
  ktls.fleet.ktls_module:
    loaded: true
    persistent: true

- name: No longer load it at boot, and leave it as it is now
  ktls.fleet.ktls_module:
    persistent: false

- name: Take it out altogether
  ktls.fleet.ktls_module:
    loaded: false
    persistent: false

- name: Put back what was there before ktls-fleet came
  ktls.fleet.ktls_module:
    state: absent
"""

RETURN = r"""
steps:
  description: What was done, or what check mode would do, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - code: load
      description: load kernel module tls
  contains:
    code:
      description: One of V(load), V(unload), V(persist), V(unpersist), V(restore).
      type: str
      returned: always
    description:
      description: The same in words.
      type: str
      returned: always
tls_module:
  description: The module as it was read back last. In check mode that is before any change.
  returned: success
  type: dict
  sample:
    kernel: 6.12.48+deb13-cloud-amd64
    loaded: true
    builtin: false
    loadable: true
    blacklisted_by: []
    blocked_by: []
    refcount: 0
    users: []
    ulp_available: true
    open_contexts: {TlsCurrTxSw: 0, TlsCurrRxSw: 0}
    persisted: "tls\n"
    persisted_exact: true
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: module_in_use
"""


from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import module_lever, originals
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError


def present(module: AnsibleModule) -> tuple[list[Any], Any, dict[str, str]]:
    """Probe, plan, and outside check mode record, apply and verify; returns steps, last state read, and diffs."""
    desired = module_lever.DesiredModule(module.params["loaded"], module.params["persistent"])
    before = module_lever.probe()
    steps = module_lever.plan(before, desired)
    now, after = before, module_lever.predict(before, desired)
    if steps and module.check_mode:
        module_lever.check_adoption(steps)
    elif steps:
        module_lever.adopt(before, steps)
        module_lever.apply(steps)
        now = after = module_lever.probe()
        module_lever.verify(now, desired)
    return steps, now, {"before": module_lever.diff_text(before), "after": module_lever.diff_text(after)}


def absent(module: AnsibleModule) -> tuple[list[Any], Any, dict[str, str]]:
    """Put the recorded state back; returns the same."""
    restoration = originals.plan_restore(module_lever.LEVER, keep_edited=module.params["edited"] == "keep")
    restoration.refuse_edited()
    before = module_lever.probe()
    steps = module_lever.plan_back(before, restoration)
    now, after = before, module_lever.predict_back(before, restoration)
    if not module.check_mode:
        module_lever.restore(steps, restoration)
        now = after = module_lever.probe()
    return steps, now, {"before": module_lever.diff_text(before), "after": module_lever.diff_text(after)}


def main() -> None:
    """Do what was asked, with the levers of this host locked."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "edited": {"type": "str", "choices": ["refuse", "keep"], "default": "refuse"},
            "loaded": {"type": "bool"},
            "persistent": {"type": "bool"},
        },
        required_if=[("state", "present", ("loaded", "persistent"), True)],
        supports_check_mode=True,
    )
    try:
        with originals.lock():
            steps, now, diff = (present if module.params["state"] == "present" else absent)(module)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    module.exit_json(changed=bool(steps), steps=[step.as_dict() for step in steps], tls_module=now.as_dict(), diff=diff)


if __name__ == "__main__":
    main()
