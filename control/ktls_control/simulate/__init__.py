# SPDX-License-Identifier: Apache-2.0
"""What a plan would do to a fleet: its waves and its gates against hosts that are drawn by chance."""
