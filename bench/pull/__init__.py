# SPDX-License-Identifier: Apache-2.0
"""How long a signed flag takes to reach the last of many hosts: 200 fetchers on one machine. See docs/pull.md."""
