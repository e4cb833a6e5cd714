# SPDX-License-Identifier: Apache-2.0
"""What network cards do for TLS on this host: counted by their drivers, held against what the kernel says."""
