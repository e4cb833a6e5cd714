# SPDX-License-Identifier: Apache-2.0
"""What a rollout and an off of many hosts cost the control node; see docs/scale.md."""
