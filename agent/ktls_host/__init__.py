# SPDX-License-Identifier: Apache-2.0
"""Levers and probes of one host: read it, decide what to change, change it.

The same code serves the Ansible modules (as module_utils of collection ktls.fleet), the agent and the
sidecar. Standard library only, Python 3.9 and later, and only relative imports inside the package, because
Ansible loads it under another name.
"""
