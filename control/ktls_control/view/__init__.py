# SPDX-License-Identifier: Apache-2.0
"""What people and machines see of a rollout: all of it read from its journal, nothing of it written there."""
