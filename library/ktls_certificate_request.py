#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: the host's key, and a signing request when its certificate does not serve."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ktls_certificate_request
short_description: Make the TLS key of a host, and a signing request when one is needed
version_added: 0.1.0
description:
  - Looks at C(key.pem) and C(cert.pem) in O(directory). When the key is missing it makes one (EC P-256, mode 0600).
  - When the certificate is missing, expires soon, lacks a wanted name, belongs to another key, or was not signed by
    O(ca), it returns a signing request (CSR) for the CA to sign.
  - The private key is never returned, copied, or put on a command line.
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  names:
    description: The DNS names and IP addresses that clients use for this host. The first one becomes the common name.
    type: list
    elements: str
    required: true
  directory:
    description: Where key and certificate are kept.
    type: path
    default: /etc/ktls/tls
  ca:
    description: The CA certificate, as PEM text, that the certificate must verify against. Left out, any will do.
    type: str
  renew_before_days:
    description: A certificate that expires within so many days needs to be renewed.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
    description: Predicts the change. Where the key is missing there can be no request yet, and RV(csr) is null.
  diff_mode:
    support: none
    description: A private key is never shown.
  platform:
    support: full
    platforms: linux
    description: The operating systems that the module can act on.
notes:
  - Needs root, and the C(openssl) program on the host.
seealso:
  - module: ktls.fleet.ktls_certificate_install
"""

EXAMPLES = r"""
- name: Make key and request
  ktls.fleet.ktls_certificate_request:
    names:
      - web1.example.org
      - 192.0.2.10
    ca: "{{ lookup('ansible.builtin.file', 'ca/ca.pem') }}"
  register: ktls_request
"""

RETURN = r"""
needed:
  description: Why a new certificate is needed, the words of RV(reasons) in one string. Null when the old one serves.
  returned: success
  type: str
  sample: no_key
reasons:
  description:
    - All of V(no_key), V(no_certificate), V(unreadable_certificate), V(key_differs), V(names_differ), V(expires_soon),
      V(not_signed_by_ca) that apply.
  returned: success
  type: list
  elements: str
  sample: [names_differ, expires_soon]
csr:
  description: The signing request as PEM text. Null when none is needed, or when check mode could not make one.
  returned: success
  type: str
  sample: "-----BEGIN CERTIFICATE REQUEST-----\n..."
error_code:
  description: The name of the failure, for programs.
  returned: failure
  type: str
  sample: bad_name
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import certificate
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError


def main() -> None:
    """Ask :mod:`ktls_host.certificate` for what is needed."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "directory": {"type": "path", "default": certificate.DIRECTORY},
            "ca": {"type": "str"},
            "renew_before_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    wish = certificate.RequestWish(
        names=tuple(module.params["names"]),
        key_path=os.path.join(module.params["directory"], certificate.KEY),
        certificate_path=os.path.join(module.params["directory"], certificate.CERTIFICATE),
        ca=module.params["ca"],
        renew_before_days=module.params["renew_before_days"],
    )
    try:
        result = certificate.request(wish, check=module.check_mode)
    except KtlsError as error:
        module.fail_json(msg=error.message, error_code=error.code)
    module.exit_json(
        changed=result.changed,
        needed=", ".join(result.reasons) or None,
        reasons=result.reasons,
        csr=result.csr,
    )


if __name__ == "__main__":
    main()
