# SPDX-License-Identifier: Apache-2.0
"""Pure decisions over evidence; nothing in here does I/O."""
