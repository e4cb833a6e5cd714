# SPDX-License-Identifier: Apache-2.0
"""Leases, helpers and the off switch on a real host."""
