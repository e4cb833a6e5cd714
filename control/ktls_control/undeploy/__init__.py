# SPDX-License-Identifier: Apache-2.0
"""The verb ``undeploy``: what the control node keeps of a host that is taken out, and what it shows."""
