/* json_field.h - members of the objects of tokenizer.json and its kin: like json_read.h, but texts have a length (they may hold
 * NULs), and messages name the place, since these files nest. Everything is borrowed from the json_t. `where` is a path such as
 * "tokenizer.json: model". */
#pragma once
#include <jansson.h>
#include <stdbool.h>

#include "base/status.h"

struct text_span {
    const char *s; /* NULL: the member is absent or null; NUL-terminated, but may hold NULs */
    size_t len;
};

/* Each returns 0, or ERR_INVALID with why. A missing or null member gives the default where there is one. */
int json_field_text(const json_t *obj, const char *where, const char *key, struct text_span *out, struct why *why);
int json_field_need_text(const json_t *obj, const char *where, const char *key, struct text_span *out, struct why *why);
int json_field_bool(const json_t *obj, const char *where, const char *key, bool def, bool *out, struct why *why);
int json_field_int(const json_t *obj, const char *where, const char *key, int64_t min, int64_t max, int64_t *out,
                   struct why *why);
