# SPDX-License-Identifier: Apache-2.0
"""The ``policy`` lever: kernel TLS asked for in the configuration of OpenSSL or GnuTLS, system-wide or for one service.

Nothing becomes visible before the library itself has taken a copy of it, and every change can be put back.
"""
