/* base64.h - RFC 4648 base64, as tokenizer files hold bytes. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Into out (room for len * 3 / 4 bytes). Returns how many, or -1: not base64. Padding is asked for. */
int64_t base64_decode(const char *s, size_t len, char *out);
