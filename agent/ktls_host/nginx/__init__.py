# SPDX-License-Identifier: Apache-2.0
"""nginx from outside: what it was built with, what its configuration says, the drop-in that switches it, root's part.

Sources: nginx.org/en/docs for directives, src/core/ngx_conf_file.c for the syntax, src/http/modules for inheritance.
"""
