/* json_read.h - strict reading of JSON that other programs wrote: typed members with ranges, errors that name the key.
 *
 * Refused by the parser: duplicate keys, NUL in strings, broken UTF-8, integers beyond 64 bits, text after the value.
 * Getters return 1 and fill *out, 0 when the member is absent or null (*out untouched), or a negative ERR_* with why.
 * A value json_t borrowed from an object lives as long as the object. Any thread. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Whole file into memory, NUL-terminated; free() it. ERR_NOT_FOUND, ERR_IO, or ERR_TOO_LARGE beyond max_bytes. */
int json_read_bytes(const char *path, size_t max_bytes, char **text, size_t *len, struct why *why);
/* The text must be one JSON object; json_decref() it. `what` names the text in errors: "config.json". */
int json_read_object(const char *what, const char *text, size_t len, json_t **out, struct why *why);

int json_get_int(const json_t *obj, const char *key, int64_t min, int64_t max, int64_t *out, struct why *why);
int json_get_real(const json_t *obj, const char *key, double min, double max, double *out, struct why *why); /* integers too */
int json_get_bool(const json_t *obj, const char *key, bool *out, struct why *why);
int json_get_string(const json_t *obj, const char *key, const char **out, struct why *why);
int json_get_array(const json_t *obj, const char *key, const json_t **out, struct why *why);
int json_get_object(const json_t *obj, const char *key, const json_t **out, struct why *why);

/* A value as one short printable line for an error message, in buf or a constant. */
struct json_shown {
    char text[96];
};
const char *json_show(const json_t *value, struct json_shown *buf);
const char *json_show_text(const char *s, struct json_shown *buf); /* quoted, control characters masked, cut */
