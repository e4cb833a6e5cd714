# SPDX-License-Identifier: Apache-2.0
"""What it costs the control node to say off to many hosts, by transport (decision 29)."""
