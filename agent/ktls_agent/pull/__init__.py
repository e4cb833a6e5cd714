# SPDX-License-Identifier: Apache-2.0
"""The kill switch by pull: a signed flag from plain static web servers that can say OFF, and nothing else."""
