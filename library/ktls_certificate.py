# SPDX-License-Identifier: Apache-2.0
# ktls_certificate is an action plugin (plugins/action/ktls_certificate.py); this file holds its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ktls_certificate
short_description: Give a host a certificate for a key that never leaves it
description:
  - Makes a key and a signing request on the host, signs it with an authority on the control node, installs the result.
  - Does nothing when the host's certificate fits the names and the authority and is not about to expire.
version_added: 0.1.0
author:
  - The ktls-fleet authors (@ktls-fleet)
options:
  names:
    description: DNS names and addresses of the host; the first is its common name.
    type: list
    elements: str
    required: true
  ca_dir:
    description: Directory of the authority on the control node; made, with a new authority, when it does not exist.
    type: path
    required: true
  directory:
    description: Where key, certificate and authority lie on the host.
    type: path
    default: /etc/ktls/tls
attributes:
  check_mode:
    description: Predicts whether a certificate would be made.
    support: full
  diff_mode:
    description: Keys and certificates are not shown.
    support: none
"""

EXAMPLES = r"""
- name: Certificate for the sidecar
  ktls.fleet.ktls_certificate:
    names: [files.example.org]
    ca_dir: /var/lib/ktls-ca
"""

RETURN = r"""
needed:
  description: Why a new certificate was made; null when the old one serves.
  returned: success
  type: str
  sample: there is no certificate
"""
