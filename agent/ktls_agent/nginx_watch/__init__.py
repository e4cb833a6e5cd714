# SPDX-License-Identifier: Apache-2.0
"""``ktls-agent nginx-watch``: counts what nginx logs, and knows its processes. It switches nothing."""
