/*
 * base/base64 -- bytes as text (RFC 4648, with padding) and back.
 *
 * Room: base.  Pure: nothing is owned, allocated (but by the buffer written to) or kept.
 */
#ifndef LUAPOOL_BASE_BASE64_H
#define LUAPOOL_BASE_BASE64_H

#include <stddef.h>

#include "base/bytes.h"

/* base64_write -- append the text for `length` bytes. 0, or -ENOMEM: unchanged. */
int base64_write(struct bytes *out, const unsigned char *data, size_t length);

/* base64_read -- append the bytes that `length` characters stand for. 0; -ENOMEM; -EBADMSG: that is no such text. Else unchanged. */
int base64_read(struct bytes *out, const char *text, size_t length);

#endif
