# SPDX-License-Identifier: Apache-2.0
"""The sidecar measured against nginx. What is measured and how: docs/benchmarks.md.

``measure`` and what it imports run on the measured machine with the standard library only; ``cli``, ``vm``,
``picture`` and ``docs`` run where the project's virtual environment is.
"""
