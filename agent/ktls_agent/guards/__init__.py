# SPDX-License-Identifier: Apache-2.0
"""Local invariants: what trips the kill switch without asking anybody."""
