# SPDX-License-Identifier: Apache-2.0
"""What the host did, interval by interval: the baseline of a judge is there before it is asked for."""
