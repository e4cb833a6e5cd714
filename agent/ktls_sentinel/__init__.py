# SPDX-License-Identifier: Apache-2.0
"""The plaintext sentinel: a peer that downloads a known file over TLS and looks for it in the packets of the wire."""
