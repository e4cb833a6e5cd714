#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: what decides whether a host can do kernel TLS."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_info
short_description: Read what a host can do with kernel TLS, try it, and say why not
version_added: 0.1.0
description:
  - Reads kernel, module C(tls), OpenSSL, GnuTLS, crypto policy, network interfaces and serving programs, and judges
    each phase from them.
  - Does not believe configuration where it can try. It shakes hands with itself over loopback, in a network namespace
    of its own, with the host's own OpenSSL, in both directions, for TLS 1.2 and 1.3 and each cipher, sends data and
    new keys, and reads from the kernel what became of it.
  - Needs no agent on the host, opens no port, and touches no counter of the host's own network namespace.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  load_module:
    description:
      - The trial needs the module C(tls). V(true) loads it for the trial when it is not loaded, and unloads it again
        right after, unless somebody has begun to use it meanwhile (RV(info.trial) says what was done).
      - With V(false), and always in check mode, a host without the module loaded is not tried, and its verdict for
        the phases above V(userspace) is V(unknown).
    type: bool
    default: false
  cache_facts:
    description:
      - Write what stays the same between changes of the host (kernel, library, trial, verdicts) to
        C(/etc/ansible/facts.d/ktls.fact), where Ansible reads it as C(ansible_local.ktls).
      - Without it this module changes no file.
    type: bool
    default: false
  datapath:
    description:
      - What serves on the host. With V(nginx) its configuration is read (C(nginx -T)), and what stands in the way of a
        phase there refuses it. With V(service) the unit in O(service) is looked at. V(sidecar) adds nothing.
    type: str
    choices: [sidecar, nginx, service]
    default: sidecar
  nginx:
    description: Settings of C(/etc/ktls/nginx.json) that differ from their defaults, for O(datapath=nginx).
    type: dict
    default: {}
  service:
    description:
      - For O(datapath=service), C(unit), C(backend) and C(restart_ok), as in M(ktls.fleet.ktls_service).
    type: dict
    default: {}
  tx_rx_consent:
    description: Whether phase V(tx) may be transmit and receive together, where the server's OpenSSL gives both with
      one option.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description:
      - Loads no module and writes no file; says whether the file would change. What an earlier trial of the same kernel
        and library wrote there counts as still true; without one, what the trial would find is not known.
  diff_mode:
    support: full
    description: Shows the file of O(cache_facts), before and after.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Needs root to see the programs of other users, to load a module, and for a network namespace. As an ordinary user it
    reads what it may.
seealso:
  - module: ktls.fleet.ktls_module
  - module: ktls.fleet.ktls_crypto_policy
  - module: ktls.fleet.ktls_offload
"""

EXAMPLES = r"""
- name: Read the host, and try what can be tried without loading anything
  ktls.fleet.ktls_info:
  register: ktls_seen

- name: Say why it cannot take phase tx
  ansible.builtin.debug:
    msg: "{{ ktls_seen.info.phases.tx.reasons | map(attribute='message') | join('; ') }}"
  when: ktls_seen.info.phases.tx.verdict != 'ready'

- name: Try it for real on a host that has not loaded the module, and keep the outcome as local facts
  ktls.fleet.ktls_info:
    load_module: true
    cache_facts: true
"""

RETURN = r"""
info:
  description: What was read and tried.
  returned: success
  type: dict
  contains:
    kernel:
      description: The running kernel's release.
      type: str
      returned: always
      sample: 6.12.48+deb13-cloud-amd64
    kernel_config:
      description:
        - C(source) is the file with the kernel's configuration, null when the host has none. C(options) are the values
          V(y), V(m) or V(n) of the options that matter, empty without a source.
      type: dict
      returned: always
      sample:
        source: /boot/config-6.12.48+deb13-cloud-amd64
        options:
          CONFIG_TLS: m
          CONFIG_TLS_DEVICE: y
          CONFIG_TLS_TOE: "n"
          CONFIG_INET_DIAG: m
          CONFIG_MODULES: y
          CONFIG_MLX5_EN_TLS: "n"
          CONFIG_CHELSIO_TLS_DEVICE: "n"
    machine:
      description: The hardware name.
      type: str
      returned: always
      sample: x86_64
    cpu:
      description:
        - C(online) CPUs, and the share of their time that was C(busy) over a quarter of a second before the trial.
        - Each is null when it is not known.
      type: dict
      returned: always
      sample: {online: 8, busy: 0.31}
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
        - The kernel module C(tls), before any trial. C(loadable) is true when C(modprobe tls) would find and take it.
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
      description: The upper layer protocols that TCP offered before any trial.
      type: list
      elements: str
      returned: always
      sample: [espintcp, mptcp, tls]
    tls_stat:
      description: The counters of C(/proc/net/tls_stat), null when the kernel has none yet.
      type: dict
      returned: always
      sample: {TlsCurrTxSw: 0, TlsTxSw: 12}
    ulp:
      description:
        - What the kernel takes. C(asked) is false, and C(why) says why, when it was not asked.
        - C(ciphers) says by version, cipher and direction whether the kernel takes a key.
        - C(rekey) says by direction whether it takes a second key on a TLS 1.3 connection.
      type: dict
      returned: always
      sample:
        asked: true
        why: null
        ciphers:
          TLSv1.3: {aes-gcm-128: {tx: true, rx: true}}
        rekey: {tx: false, rx: false}
    trial:
      description:
        - C(loaded_module) is true when the module was loaded for the trial, C(left_loaded) when it could not be
          unloaded again because somebody had begun to use it. C(why) says why it could not be loaded.
      type: dict
      returned: always
      sample: {loaded_module: true, left_loaded: false, why: null}
    openssl:
      description:
        - The library that a datapath would load (C(library), C(version), C(number), C(ktls_built)) and the version of
          the C(openssl) program (C(program)).
        - C(ktls_built) is null when the library does not tell.
        - C(proof) is the trial. C(done) is true when every cell was tried, else C(why) says what stopped it. A cell
          has C(version), C(cipher), C(kernel_cipher), C(offered), C(tx) and C(rx) (the kernel did it and all data
          arrived), C(reason) (why not) and C(key_update), which has C(ok) or C(breaks) with the reason for new keys
          from the peer, requested by the peer, and of our own, by direction.
      type: dict
      returned: always
      sample:
        library: libcrypto.so.3
        version: OpenSSL 3.5.1 1 Jul 2025
        number: 810549264
        ktls_built: true
        program: "OpenSSL 3.5.1 1 Jul 2025 (Library: OpenSSL 3.5.1 1 Jul 2025)"
        proof:
          done: true
          why: null
          library: OpenSSL 3.5.1 1 Jul 2025
          cells:
            - version: TLSv1.3
              cipher: TLS_AES_256_GCM_SHA384
              kernel_cipher: aes-gcm-256
              offered: true
              tx: true
              rx: true
              reason: null
              key_update:
                tx: {peer: ok, peer_requested: "breaks: server: no suitable record layer", own: ok}
                rx: null
    gnutls:
      description:
        - The GnuTLS library, C(library) null when there is none. C(ktls_built) is true when kTLS was compiled in.
        - C(config_ktls) is what C(config_file) says in its section C(global), null when it says nothing.
          C(effective) is true when both agree.
      type: dict
      returned: always
      sample:
        library: libgnutls.so.30
        version: 3.8.9
        ktls_built: false
        config_file: /etc/gnutls/config
        config_ktls: null
        effective: false
    policy:
      description:
        - C(crypto_policies) is true where update-crypto-policies(8) rules, C(policy) is the one in force, C(backends)
          what its generated files lead to, and C(local) the files of C(local.d).
        - C(levers) are those of ktls-fleet that have an original state to put back.
      type: dict
      returned: always
      sample: {crypto_policies: false, policy: null, backends: {}, local: [], levers: []}
    nics:
      description:
        - Each network interface but loopback, with driver, firmware, TLS features, whether the driver implements TLS
          offload, what lies below bonds and virtual devices, and byte counters where the driver has them.
      type: list
      elements: dict
      returned: always
      sample:
        - name: eth0
          kind: physical
          driver: virtio_net
          up: true
          carries_default_route: true
    datapaths:
      description:
        - What serves TLS here. C(kind) is V(sidecar), V(nginx) or V(service). C(ktls) is V(possible), V(never),
          V(unknown) or V(breaks) (its connections fail under a policy that asks for kernel TLS), C(why) says why, and
          C(link) leads to the source.
      type: list
      elements: dict
      returned: always
      sample:
        - kind: service
          name: apache2.service
          unit: apache2.service
          program: /usr/sbin/apache2
          version: null
          libraries: [openssl]
          processes: 6
          ktls: never
          why: mod_ssl gives OpenSSL a BIO of its own that writes into Apache's filters
          link: https://github.com/apache/httpd/blob/trunk/modules/ssl/ssl_engine_io.c
    phases:
      description:
        - For each phase (V(userspace), V(tx), V(rx), V(hw)) a dictionary of C(verdict), C(reasons) and C(notes).
        - C(verdict) is V(ready) when it was tried here and worked, V(refused) when a reason says why it cannot be, and
          V(unknown) when it could not be tried.
        - C(reasons) say why a phase is not ready, C(notes) what to know before it. Each is a list of dictionaries
          with C(code), C(message), C(cure) and C(link) (a page of the documentation).
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
              link: docs/diagnostics.md#tls_module_missing
          notes: []
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: unsafe_directory
"""


from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import files, info, release_record
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.nginx import settings
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.service.programs import AUTO
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.service.switch import Asked


def _service(raw: dict[str, Any]) -> Asked:
    """Take what the inventory says; a unit that is not named is none that systemd knows."""
    return Asked(str(raw.get("unit") or "unnamed"), str(raw.get("backend") or AUTO), raw.get("restart_ok") is True)


def main() -> None:
    """Collect, keep the facts if that is wanted, and return."""
    module = AnsibleModule(
        argument_spec={
            "load_module": {"type": "bool", "default": False},
            "cache_facts": {"type": "bool", "default": False},
            "datapath": {"type": "str", "choices": ["sidecar", "nginx", "service"], "default": "sidecar"},
            "nginx": {"type": "dict", "default": {}},
            "service": {"type": "dict", "default": {}},
            "tx_rx_consent": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    changes = []
    try:
        served: dict[str, Any] = {}
        if module.params["datapath"] == "nginx":
            wanted = {"probe_port": 8444, "server_name": "localhost", **module.params["nginx"]}
            served = {"nginx": settings.parse(wanted, "nginx"), "tx_rx_consent": module.params["tx_rx_consent"]}
        elif module.params["datapath"] == "service":
            asked = _service(module.params["service"])
            served = {"service": asked, "tx_rx_consent": module.params["tx_rx_consent"]}
        collected = info.collect(
            load_module=module.params["load_module"] and not module.check_mode,
            **served,
        )
        if module.params["cache_facts"]:
            changes = files.plan_files([info.fact_spec(collected)])
            if not module.check_mode:
                release_record.adopt(change.spec for change in changes)
                files.apply(changes)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    changed = bool(changes) or collected["trial"]["left_loaded"]
    module.exit_json(changed=changed, info=collected, diff=[change.diff() for change in changes])


if __name__ == "__main__":
    main()
