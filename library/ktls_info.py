#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: what decides whether a host can do kernel TLS."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_info
short_description: Read what a host can do with kernel TLS, and why not
version_added: 0.1.0
description:
  - Reads kernel, module C(tls), kernel TLS counters and OpenSSL, and judges each phase from them.
  - Changes nothing, loads no module, and needs no agent on the host.
author:
  - The ktls-fleet authors (@ktls-fleet)
options: {}
attributes:
  check_mode:
    support: full
    description: Only reads, in check mode too.
  diff_mode:
    support: N/A
    description: There is nothing to compare.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
seealso:
  - module: ktls.fleet.ktls_module
"""

EXAMPLES = r"""
- name: Read the host
  ktls.fleet.ktls_info:
  register: ktls_seen

- name: Say why it cannot take phase tx
  ansible.builtin.debug:
    msg: "{{ ktls_seen.info.phases.tx.reasons | map(attribute='message') | join('; ') }}"
  when: ktls_seen.info.phases.tx.verdict != 'ready'
"""

RETURN = r"""
info:
  description: What was read.
  returned: success
  type: dict
  contains:
    kernel:
      description: The running kernel's release.
      type: str
      returned: always
      sample: 6.12.48+deb13-cloud-amd64
    machine:
      description: The hardware name.
      type: str
      returned: always
      sample: x86_64
    python:
      description: The version of the Python that ran this module.
      type: str
      returned: always
      sample: 3.13.5
    distribution:
      description: C(id) and C(version_id) of os-release(5), null where it does not say.
      type: dict
      returned: always
      sample: {id: debian, version_id: "13"}
    tls_module:
      description:
        - The kernel module C(tls). C(loadable) is true when C(modprobe tls) would find and take it.
        - C(blacklisted_by) names files that stop it from loading at boot, C(blocked_by) what stops it altogether.
        - C(refcount) counts the sockets that use it, null when it is not loaded.
        - C(open_contexts) are the counters of TLS contexts that are open now.
        - C(persisted) is the text of C(/etc/modules-load.d/ktls-fleet.conf), null when there is none.
          C(persisted_exact) is true when it is as M(ktls.fleet.ktls_module) writes it.
      type: dict
      returned: always
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
        persisted: null
        persisted_exact: false
    tcp_available_ulp:
      description: The upper layer protocols that TCP offers now.
      type: list
      elements: str
      returned: always
      sample: [espintcp, mptcp, tls]
    tls_stat:
      description: The counters of C(/proc/net/tls_stat), null when the kernel has none yet.
      type: dict
      returned: always
      sample: {TlsCurrTxSw: 0, TlsTxSw: 12}
    openssl:
      description:
        - The library that a datapath would load (C(library), C(version), C(number), C(ktls_built)) and the version of
          the C(openssl) program (C(program)).
        - C(ktls_built) is null when the library does not tell.
      type: dict
      returned: always
      sample:
        library: libcrypto.so.3
        version: OpenSSL 3.5.1 1 Jul 2025
        number: 810549264
        ktls_built: true
        program: "OpenSSL 3.5.1 1 Jul 2025 (Library: OpenSSL 3.5.1 1 Jul 2025)"
    phases:
      description:
        - For each phase (V(userspace), V(tx), V(rx), V(hw)) a dictionary of C(verdict), C(reasons) and C(notes).
        - C(verdict) is one of V(ready), V(refused), V(unknown).
        - C(reasons) say why a phase is not ready, C(notes) what to know before it. Each is a list of dictionaries
          with C(code), C(message) and C(cure).
      type: dict
      returned: always
      sample:
        userspace: {verdict: ready, reasons: [], notes: []}
        tx:
          verdict: refused
          reasons:
            - code: tls_module_missing
              message: kernel 6.12.0-custom has no module tls (CONFIG_TLS)
              cure: install a kernel that has it
          notes: []
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: unsafe_directory
"""


from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import info
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError


def main() -> None:
    """Collect and return."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        collected = info.collect()
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    module.exit_json(changed=False, info=collected)


if __name__ == "__main__":
    main()
