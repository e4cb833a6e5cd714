# SPDX-License-Identifier: Apache-2.0
"""A drill: kTLS on, proved, off by the shell's way, and the host as it was before; timed."""
