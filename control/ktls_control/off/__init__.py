# SPDX-License-Identifier: Apache-2.0
"""The kill switch by push: every host at once, read back, with what the unreachable ones will do by themselves."""
