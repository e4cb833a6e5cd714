# SPDX-License-Identifier: Apache-2.0
"""What is wrong with kTLS on this host: three symptoms, walked from the evidence."""
