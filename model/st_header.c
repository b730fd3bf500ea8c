/* st_header.c - the checks that stand between a file from anywhere and a pointer into it.
 *
 * First each tensor by itself: known dtype, shape without overflow, offsets that fit the shape and the file. Then all
 * together, in order of their offsets: each begins where the last one ended, and the last one ends with the file. That
 * excludes overlaps, holes and bytes nobody declared, and a file that was cut short fails on its last tensor. */
#include "model/st_header.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "model/json_read.h"

/* 32 MiB of header is some 250,000 tensors: no checkpoint comes near, and parsing it stays within a few hundred MB. */
enum { MAX_HEADER_BYTES = 32 << 20, MAX_NAME = 255 };

static const struct dtype {
    const char *name;
    int bytes;
} dtypes[ST_DTYPE_COUNT] = {
    [ST_F32] = {"F32", 4}, [ST_F16] = {"F16", 2}, [ST_BF16] = {"BF16", 2}, [ST_F64] = {"F64", 8}, [ST_I64] = {"I64", 8},
    [ST_I32] = {"I32", 4}, [ST_I16] = {"I16", 2}, [ST_I8] = {"I8", 1}, [ST_U64] = {"U64", 8}, [ST_U32] = {"U32", 4},
    [ST_U16] = {"U16", 2}, [ST_U8] = {"U8", 1}, [ST_BOOL] = {"BOOL", 1}, [ST_F8_E4M3] = {"F8_E4M3", 1},
    [ST_F8_E5M2] = {"F8_E5M2", 1},
};
const char *st_dtype_name(enum st_dtype t) { return dtypes[t].name; }
int st_dtype_bytes(enum st_dtype t) { return dtypes[t].bytes; }

static int read_dtype(const json_t *info, struct st_tensor *t, struct why *why) {
    const char *s = NULL;
    int rc = json_get_string(info, "dtype", &s, why);
    if (rc < 0) return rc;
    if (!s) return fail(why, ERR_CORRUPT, "dtype is missing");
    for (int i = 0; i < ST_DTYPE_COUNT; i++)
        if (!strcmp(dtypes[i].name, s)) return t->dtype = (enum st_dtype)i, 0;
    struct json_shown shown;
    return fail(why, ERR_UNSUPPORTED,
                "dtype is %s; known are F32, F16, BF16, F64, F8_E4M3, F8_E5M2, I8 to I64, U8 to U64, BOOL",
                json_show_text(s, &shown));
}

/* t->shape, and the bytes that dtype and shape need. */
static int read_shape(const json_t *info, struct st_tensor *t, struct why *why) {
    const json_t *shape = NULL;
    int rc = json_get_array(info, "shape", &shape, why);
    if (rc < 0) return rc;
    if (!shape) return fail(why, ERR_CORRUPT, "shape is missing");
    size_t dims = json_array_size(shape), bytes = (size_t)dtypes[t->dtype].bytes;
    if (dims > ST_MAX_DIMS) return fail(why, ERR_UNSUPPORTED, "shape has %zu dimensions; wanted at most %d", dims, ST_MAX_DIMS);
    t->dims = (int)dims;
    for (size_t i = 0; i < dims; i++) {
        const json_t *v = json_array_get(shape, i);
        struct json_shown shown;
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return fail(why, ERR_CORRUPT, "shape[%zu] is %s; wanted a whole number, 0 or more", i, json_show(v, &shown));
        t->shape[i] = json_integer_value(v);
        if (__builtin_mul_overflow(bytes, (size_t)t->shape[i], &bytes) || bytes > PTRDIFF_MAX)
            return fail(why, ERR_TOO_LARGE, "shape needs more bytes than memory has addresses");
    }
    t->bytes = bytes;
    return 0;
}

/* t->data, from offsets that must fit shape and file. */
static int read_offsets(const json_t *info, const uint8_t *data, size_t data_bytes, struct st_tensor *t, struct why *why) {
    const json_t *offsets = NULL;
    int rc = json_get_array(info, "data_offsets", &offsets, why);
    if (rc < 0) return rc;
    const json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return fail(why, ERR_CORRUPT, "data_offsets is missing or malformed; wanted [begin, end]");
    long long begin = json_integer_value(b), end = json_integer_value(e);
    if (begin < 0 || end < begin || (unsigned long long)end > data_bytes)
        return fail(why, ERR_CORRUPT,
                    "data_offsets are [%lld, %lld]; wanted them ordered and within the %zu bytes of data that the "
                    "file has (is it cut short?)",
                    begin, end, data_bytes);
    if ((size_t)(end - begin) != t->bytes) {
        char shape[128];
        return fail(why, ERR_CORRUPT, "data_offsets span %lld bytes; wanted %zu for %s of %s", end - begin, t->bytes,
                    dtypes[t->dtype].name, st_shape_text(t, shape, sizeof shape));
    }
    t->data = data + begin;
    return 0;
}

static int check_name(const char *name, struct why *why) {
    size_t n = strlen(name);
    if (!n || n > MAX_NAME) return fail(why, ERR_CORRUPT, "a tensor name of %zu bytes; wanted 1 to %d", n, MAX_NAME);
    for (size_t i = 0; i < n; i++)
        if (iscntrl((unsigned char)name[i])) {
            struct json_shown shown;
            return fail(why, ERR_CORRUPT, "tensor name %s has a control character", json_show_text(name, &shown));
        }
    return 0;
}

static int read_tensor(json_t *info, const uint8_t *data, size_t data_bytes, struct st_tensor *t, struct why *why) {
    if (!json_is_object(info)) return fail(why, ERR_CORRUPT, "not an object; wanted {\"dtype\", \"shape\", \"data_offsets\"}");
    const char *key;
    json_t *v;
    json_object_foreach(info, key, v) {
        struct json_shown shown;
        if (strcmp(key, "dtype") && strcmp(key, "shape") && strcmp(key, "data_offsets"))
            return fail(why, ERR_UNSUPPORTED, "unknown member %s; wanted dtype, shape, data_offsets",
                        json_show_text(key, &shown));
    }
    int rc = read_dtype(info, t, why);
    if (rc >= 0) rc = read_shape(info, t, why);
    if (rc >= 0) rc = read_offsets(info, data, data_bytes, t, why);
    return rc;
}

static int check_metadata(json_t *meta, struct why *why) {
    if (!json_is_object(meta)) return fail(why, ERR_CORRUPT, "__metadata__ is not an object");
    const char *key;
    json_t *v;
    json_object_foreach(meta, key, v) {
        struct json_shown shown;
        if (!json_is_string(v)) return fail(why, ERR_CORRUPT, "__metadata__: %s is not a string", json_show_text(key, &shown));
    }
    return 0;
}

static int by_data(const void *a, const void *b) {
    const struct st_tensor *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty tensors before the one that begins at the same byte */
}

static int check_cover(const struct st_tensor *t, int n, const uint8_t *data, size_t data_bytes, struct why *why) {
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        size_t begin = (size_t)((const uint8_t *)t[i].data - data);
        if (begin != at)
            return fail(why, ERR_CORRUPT,
                        "tensor %s begins at byte %zu of the data; wanted %zu, where the one before it ends (%s)", t[i].name,
                        begin, at, begin < at ? "they overlap" : "there is a hole");
        at += t[i].bytes;
    }
    if (at != data_bytes)
        return fail(why, ERR_CORRUPT, "the tensors end at byte %zu of the data, but the file has %zu bytes of data", at,
                    data_bytes);
    return 0;
}

static int read_all(json_t *root, const char *file, const uint8_t *data, size_t data_bytes, struct arena *arena,
                    struct st_tensor *tensors, int *n, struct why *why) {
    const char *name;
    json_t *info;
    *n = 0;
    json_object_foreach(root, name, info) {
        struct st_tensor *t = &tensors[*n];
        int rc;
        if (!strcmp(name, "__metadata__")) {
            if ((rc = check_metadata(info, why)) < 0) return rc;
            continue;
        }
        if ((rc = check_name(name, why)) < 0) return rc;
        if ((rc = read_tensor(info, data, data_bytes, t, why)) < 0) return fail_in(why, rc, "tensor %s", name);
        t->name = arena_strdup(arena, name, strlen(name));
        t->file = file;
        if (!t->name) return fail(why, ERR_NOMEM, "out of memory for tensor names");
        ++*n;
    }
    qsort(tensors, (size_t)*n, sizeof *tensors, by_data);
    return check_cover(tensors, *n, data, data_bytes, why);
}

static int parse(const char *file, const uint8_t *p, size_t bytes, struct arena *arena, struct st_tensor **out, int *n,
                 struct why *why) {
    uint64_t header = 0;
    if (bytes < 8) return fail(why, ERR_CORRUPT, "%zu bytes long; wanted at least the 8 of the header's length", bytes);
    for (int i = 7; i >= 0; i--) header = header << 8 | p[i];
    if (header > MAX_HEADER_BYTES)
        return fail(why, ERR_TOO_LARGE, "the header claims %llu bytes; wanted at most %d (is this a safetensors file?)",
                    (unsigned long long)header, MAX_HEADER_BYTES);
    if (header > bytes - 8)
        return fail(why, ERR_CORRUPT, "the header claims %llu bytes, but only %zu follow (is the file cut short?)",
                    (unsigned long long)header, bytes - 8);
    if (!header || p[8] != '{') return fail(why, ERR_CORRUPT, "the header does not begin with '{'");
    json_t *root = NULL;
    int rc = json_read_object("header", (const char *)p + 8, (size_t)header, &root, why);
    if (rc < 0) return rc;
    struct st_tensor *tensors = arena_array(arena, struct st_tensor, json_object_size(root) + 1);
    rc = tensors ? read_all(root, file, p + 8 + header, bytes - 8 - (size_t)header, arena, tensors, n, why)
                 : fail(why, ERR_NOMEM, "out of memory for %zu tensors", json_object_size(root));
    json_decref(root);
    *out = tensors;
    return rc;
}

int st_header_parse(const char *file, const void *data, size_t bytes, struct arena *arena, struct st_tensor **out, int *n,
                    struct why *why) {
    int rc = parse(file, data, bytes, arena, out, n, why);
    return rc < 0 ? fail_in(why, rc, "%s", file) : 0;
}
