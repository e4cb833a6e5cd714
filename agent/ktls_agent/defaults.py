# SPDX-License-Identifier: Apache-2.0
"""Where things are by default. Imports nothing: each call of the command line needs it, and a zipapp compiles anew."""

from __future__ import annotations

CONFIG = "/etc/ktls/agent.json"
SOCKET = "/run/ktls-agent/agent.sock"
METRICS_SOCKET = "/run/ktls-agent/metrics.sock"
RUN_DIR = "/run/ktls"
STATE_DIR = "/var/lib/ktls"
DIAG_SOCKET = "/run/ktls-diag.sock"
