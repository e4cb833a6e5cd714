# SPDX-License-Identifier: Apache-2.0
"""Numbers of the OpenSSL 3 interface that are macros in C. Source: include/openssl/{ssl,bio,tls1,prov_ssl,sslerr}.h."""

from __future__ import annotations

from typing import Final

# SSL_CTX_set_options(3)
SSL_OP_ENABLE_KTLS: Final = 1 << 3
SSL_OP_NO_COMPRESSION: Final = 1 << 17
SSL_OP_CIPHER_SERVER_PREFERENCE: Final = 1 << 22
SSL_OP_NO_TLSv1_3: Final = 1 << 29
SSL_OP_NO_RENEGOTIATION: Final = 1 << 30

# SSL_CTX_set_mode(3)
SSL_MODE_AUTO_RETRY: Final = 0x4
SSL_MODE_RELEASE_BUFFERS: Final = 0x10

# SSL_CTX_ctrl(3) and SSL_ctrl(3) commands behind macros
SSL_CTRL_MODE: Final = 33
SSL_CTRL_SET_SESS_CACHE_MODE: Final = 44
SSL_CTRL_SET_TLSEXT_SERVERNAME_CB: Final = 53
SSL_CTRL_SET_TLSEXT_TICKET_KEYS: Final = 59
SSL_CTRL_CLEAR_MODE: Final = 78
SSL_CTRL_SET_CURRENT_CERT: Final = 117
SSL_CTRL_SET_MIN_PROTO_VERSION: Final = 123
SSL_SESS_CACHE_OFF: Final = 0

# SSL_CTX_set_current_cert(3)
SSL_CERT_SET_FIRST: Final = 1
SSL_CERT_SET_NEXT: Final = 2

# SSL_get_error(3)
SSL_ERROR_NONE: Final = 0
SSL_ERROR_SSL: Final = 1
SSL_ERROR_WANT_READ: Final = 2
SSL_ERROR_WANT_WRITE: Final = 3
SSL_ERROR_SYSCALL: Final = 5
SSL_ERROR_ZERO_RETURN: Final = 6

# BIO_ctrl(3), BIO_s_mem(3), BIO_set_fd(3), BIO_get_ktls_send(3)
BIO_NOCLOSE: Final = 0
BIO_CTRL_GET_KTLS_SEND: Final = 73
BIO_CTRL_GET_KTLS_RECV: Final = 76
BIO_C_SET_FD: Final = 104

TLS1_2_VERSION: Final = 0x0303
TLS1_3_VERSION: Final = 0x0304
SSL_FILETYPE_PEM: Final = 1

# SSL_CTX_set_alpn_select_cb(3), SSL_CTX_set_tlsext_servername_callback(3)
TLSEXT_NAMETYPE_HOST_NAME: Final = 0
SSL_TLSEXT_ERR_OK: Final = 0
SSL_TLSEXT_ERR_ALERT_FATAL: Final = 2
SSL_TLSEXT_ERR_NOACK: Final = 3

# SSL_key_update(3)
SSL_KEY_UPDATE_NONE: Final = -1
SSL_KEY_UPDATE_NOT_REQUESTED: Final = 0
SSL_KEY_UPDATE_REQUESTED: Final = 1

# ERR_GET_LIB(3); an alert from the peer is reason 1000 + alert number (SSL_AD_REASON_OFFSET)
ERR_LIB_SYS: Final = 2
ERR_LIB_SSL: Final = 20
ERR_SYSTEM_FLAG: Final = 0x80000000
SSL_AD_REASON_OFFSET: Final = 1000
SSL_AD_BAD_RECORD_MAC: Final = 20
SSL_AD_INTERNAL_ERROR: Final = 80
SSL_R_PACKET_LENGTH_TOO_LONG: Final = 198
SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC: Final = 281
SSL_R_UNEXPECTED_EOF_WHILE_READING: Final = 294
# Reasons that mean a fault of the library itself: ERR_RFLAG_FATAL | ERR_RFLAG_COMMON
ERR_R_FATAL: Final = 0x3 << 18
