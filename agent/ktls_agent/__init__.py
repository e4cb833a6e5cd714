# SPDX-License-Identifier: Apache-2.0
"""The agent: takes orders over a Unix socket, keeps them within their lease, and obeys the off flag."""
