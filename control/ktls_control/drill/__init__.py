# SPDX-License-Identifier: Apache-2.0
"""Drills of a fleet: what is kept of them, and what an operator sees."""
