/* json_read.c - jansson with its strict flags, and one error sentence per kind of mistake.
 *
 * Every message has the form "KEY is VALUE; wanted WHAT", because a checkpoint is repaired by editing that line. What is
 * shown of a value is cut and printable: the text comes from a file that nobody vouches for. */
#include "model/json_read.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int slurp(FILE *f, const char *path, size_t max_bytes, char **text, size_t *len, struct why *why) {
    struct stat st;
    if (fstat(fileno(f), &st) < 0) return fail(why, ERR_IO, "cannot look at %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return fail(why, ERR_IO, "%s is not a regular file", path);
    if ((uint64_t)st.st_size > max_bytes)
        return fail(why, ERR_TOO_LARGE, "%s has %lld bytes; at most %zu are read", path, (long long)st.st_size, max_bytes);
    size_t size = (size_t)st.st_size;
    char *buf = malloc(size + 1);
    if (!buf) return fail(why, ERR_NOMEM, "out of memory for the %zu bytes of %s", size, path);
    if (fread(buf, 1, size, f) != size) {
        free(buf);
        return fail(why, ERR_IO, "cannot read all %zu bytes of %s", size, path);
    }
    buf[size] = 0;
    *text = buf;
    *len = size;
    return 0;
}

int json_read_bytes(const char *path, size_t max_bytes, char **text, size_t *len, struct why *why) {
    FILE *f = fopen(path, "re");
    if (!f)
        return fail(why, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO, "cannot open %s: %s", path,
                    strerror(errno));
    int rc = slurp(f, path, max_bytes, text, len, why);
    fclose(f);
    return rc;
}

/* jansson quotes what it stumbled over; nothing in it may break the line. */
static void mask_controls(char *s) {
    for (; *s; s++)
        if (iscntrl((unsigned char)*s)) *s = '?';
}

int json_read_object(const char *what, const char *text, size_t len, json_t **out, struct why *why) {
    json_error_t e;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (!root) {
        if (!e.text[0] || json_error_code(&e) == json_error_out_of_memory)
            return fail(why, ERR_NOMEM, "%s: out of memory", what);
        mask_controls(e.text);
        return fail(why, ERR_CORRUPT, "%s, line %d, column %d: %s", what, e.line, e.column, e.text);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return fail(why, ERR_CORRUPT, "%s holds no JSON object {...}", what);
    }
    *out = root;
    return 0;
}

const char *json_show_text(const char *s, struct json_shown *buf) {
    size_t n = strnlen(s, 80);
    while (n && s[n] && ((unsigned char)s[n] & 0xc0) == 0x80) n--; /* cut between characters */
    snprintf(buf->text, sizeof buf->text, "\"%.*s%s\"", (int)n, s, s[n] ? "..." : "");
    mask_controls(buf->text);
    return buf->text;
}

const char *json_show(const json_t *v, struct json_shown *buf) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: snprintf(buf->text, sizeof buf->text, "an object of %zu members", json_object_size(v)); break;
    case JSON_ARRAY: snprintf(buf->text, sizeof buf->text, "a list of %zu", json_array_size(v)); break;
    case JSON_STRING: return json_show_text(json_string_value(v), buf);
    case JSON_INTEGER: snprintf(buf->text, sizeof buf->text, "%lld", (long long)json_integer_value(v)); break;
    case JSON_REAL: snprintf(buf->text, sizeof buf->text, "%.9g", json_real_value(v)); break;
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL: return "null";
    }
    return buf->text;
}

static const json_t *member(const json_t *obj, const char *key) {
    const json_t *v = json_object_get(obj, key);
    return json_is_null(v) ? NULL : v;
}

static int wrong(const char *key, const json_t *v, const char *wanted, struct why *why) {
    struct json_shown shown;
    return fail(why, ERR_INVALID, "%s is %s; wanted %s", key, json_show(v, &shown), wanted);
}

int json_get_int(const json_t *obj, const char *key, int64_t min, int64_t max, int64_t *out, struct why *why) {
    const json_t *v = member(obj, key);
    if (!v) return 0;
    int64_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < min || n > max) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)min, (long long)max);
        return wrong(key, v, wanted, why);
    }
    *out = n;
    return 1;
}

int json_get_real(const json_t *obj, const char *key, double min, double max, double *out, struct why *why) {
    const json_t *v = member(obj, key);
    if (!v) return 0;
    double x = json_number_value(v);
    if (!json_is_number(v) || !isfinite(x) || x < min || x > max) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
        return wrong(key, v, wanted, why);
    }
    *out = x;
    return 1;
}

int json_get_bool(const json_t *obj, const char *key, bool *out, struct why *why) {
    const json_t *v = member(obj, key);
    if (!v) return 0;
    if (!json_is_boolean(v)) return wrong(key, v, "true or false", why);
    *out = json_is_true(v);
    return 1;
}

int json_get_string(const json_t *obj, const char *key, const char **out, struct why *why) {
    const json_t *v = member(obj, key);
    if (!v) return 0;
    if (!json_is_string(v)) return wrong(key, v, "a string", why);
    *out = json_string_value(v);
    return 1;
}

int json_get_array(const json_t *obj, const char *key, const json_t **out, struct why *why) {
    const json_t *v = member(obj, key);
    if (!v) return 0;
    if (!json_is_array(v)) return wrong(key, v, "a list", why);
    *out = v;
    return 1;
}

int json_get_object(const json_t *obj, const char *key, const json_t **out, struct why *why) {
    const json_t *v = member(obj, key);
    if (!v) return 0;
    if (!json_is_object(v)) return wrong(key, v, "an object", why);
    *out = v;
    return 1;
}
