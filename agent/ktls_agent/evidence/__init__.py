# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of the traffic of this host: connections, bytes, counters, cost."""
