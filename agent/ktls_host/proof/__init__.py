# SPDX-License-Identifier: Apache-2.0
"""What this host's own OpenSSL does with this host's own kernel, tried on loopback: configuration can lie."""
