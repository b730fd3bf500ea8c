/* json_field.c - type checks with one message each. */
#include "model/json_field.h"

static const char *type_name(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a string";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: return "null";
    }
    return "?";
}

static const json_t *member(const json_t *obj, const char *key) {
    const json_t *v = json_object_get(obj, key);
    return json_is_null(v) ? NULL : v;
}

int json_field_text(const json_t *obj, const char *where, const char *key, struct text_span *out, struct why *why) {
    const json_t *v = member(obj, key);
    *out = (struct text_span){0};
    if (!v) return 0;
    if (!json_is_string(v)) return fail(why, ERR_INVALID, "%s: '%s' is %s, wanted a string", where, key, type_name(v));
    *out = (struct text_span){json_string_value(v), json_string_length(v)};
    return 0;
}

int json_field_need_text(const json_t *obj, const char *where, const char *key, struct text_span *out, struct why *why) {
    int rc = json_field_text(obj, where, key, out, why);
    return rc < 0 || out->s ? rc : fail(why, ERR_INVALID, "%s: '%s' is missing, wanted a string", where, key);
}

int json_field_bool(const json_t *obj, const char *where, const char *key, bool def, bool *out, struct why *why) {
    const json_t *v = member(obj, key);
    *out = def;
    if (!v) return 0;
    if (!json_is_boolean(v)) return fail(why, ERR_INVALID, "%s: '%s' is %s, wanted true or false", where, key, type_name(v));
    *out = json_is_true(v);
    return 0;
}

int json_field_int(const json_t *obj, const char *where, const char *key, int64_t min, int64_t max, int64_t *out,
                   struct why *why) {
    const json_t *v = member(obj, key);
    if (!v) return fail(why, ERR_INVALID, "%s: '%s' is missing, wanted an integer", where, key);
    if (!json_is_integer(v)) return fail(why, ERR_INVALID, "%s: '%s' is %s, wanted an integer", where, key, type_name(v));
    int64_t i = json_integer_value(v);
    if (i < min || i > max)
        return fail(why, ERR_INVALID, "%s: '%s' is %lld, wanted %lld to %lld", where, key, (long long)i, (long long)min,
                    (long long)max);
    *out = i;
    return 0;
}
