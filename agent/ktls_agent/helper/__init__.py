# SPDX-License-Identifier: Apache-2.0
"""Root's part of the agent's work: one process a request, fixed verbs, no arguments.

systemd listens on a socket of each helper and starts ``ktls-agent helper NAME`` for each connection (Accept=yes). One
line of JSON comes, ``{"verb": ...}`` and nothing else, one goes back, and the process ends. So nothing that the agent
says, even one that was taken over, becomes a path, a name or an option of what root does.
"""
