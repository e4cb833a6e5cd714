# SPDX-License-Identifier: Apache-2.0
"""Take everything of ours away from a host, and put back what was there before.

``footprints`` say what each component leaves on a host, ``found`` looks, ``plan`` decides and is pure, ``apply`` acts;
``off`` takes the host to userspace first, ``datapaths`` gives servers of others their configuration back, ``levers``
puts back what the levers changed, ``trail`` reads what must not be lost. ``run`` is the whole.
"""
