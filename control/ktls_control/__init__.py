# SPDX-License-Identifier: Apache-2.0
"""Everything of ktls-fleet that runs on the control node."""
