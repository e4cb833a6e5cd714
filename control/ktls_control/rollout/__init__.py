# SPDX-License-Identifier: Apache-2.0
"""A rollout under way: its journal, its state, and what operators ask of it."""
