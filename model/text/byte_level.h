/* byte_level.h - the GPT-2 alphabet: each byte as one visible character, so that any bytes are words of a text vocabulary.
 *
 * Bytes that are visible Latin-1 characters stand for themselves; the other 68 become U+0100 and up in ascending order. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "model/text/tokenizer.h"

uint32_t byte_level_char(unsigned char byte);
int  byte_level_byte(uint32_t cp); /* or -1 */
int  byte_level_append(struct text_buf *out, const char *s, size_t len); /* the characters of s; 0 or ERR_NOMEM */
