# SPDX-License-Identifier: Apache-2.0
"""An HTTPS file server that knows, for each connection, whether the kernel encrypts it, and says so."""
