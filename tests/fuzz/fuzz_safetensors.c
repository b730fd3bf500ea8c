/* fuzz_safetensors.c - one file's bytes: whatever is accepted must lie inside them. */
#include <stdio.h>
#include <string.h>

#include "model/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void check_tensor(const struct st_set *s, const struct st_tensor *t, const uint8_t *data, size_t size) {
    const uint8_t *begin = t->data;
    size_t need = (size_t)st_dtype_bytes(t->dtype);
    volatile uint8_t touched = 0;
    for (int i = 0; i < t->dims; i++) need *= (size_t)t->shape[i];
    FUZZ_CHECK(need == t->bytes);
    FUZZ_CHECK(begin >= data && begin <= data + size && t->bytes <= (size_t)(data + size - begin));
    FUZZ_CHECK(st_find(s, t->name) == t);
    for (size_t i = 0; i < t->bytes; i += 61) touched ^= begin[i];
    if (t->bytes) touched ^= begin[t->bytes - 1];
    (void)touched;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct st_set *s = NULL;
    struct why why = {""};
    int rc = st_open_memory(data, size, &s, &why);
    if (rc < 0) {
        FUZZ_CHECK(!s && strlen(why.text) > 10);
        return 0;
    }
    uint64_t total = 0;
    for (int i = 0; i < st_count(s); i++) {
        check_tensor(s, st_at(s, i), data, size);
        total += st_at(s, i)->bytes;
    }
    FUZZ_CHECK(total == st_total_bytes(s) && total <= size);
    FUZZ_CHECK(!st_find(s, "no such tensor"));
    st_close(s);
    return 0;
}

static void add_file(fuzz_add add, const char *header, size_t data_bytes) {
    uint8_t file[4096] = {0};
    size_t n = strlen(header);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memcpy(file + 8, header, n);
    add(file, 8 + n + data_bytes);
}

void fuzz_seeds(fuzz_add add) {
    add_file(add, "{}", 0);
    add_file(add, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24);
    add_file(add,
             "{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[6,14]},"
             "\"b\":{\"dtype\":\"F16\",\"shape\":[3,1],\"data_offsets\":[0,6]},\"none\":{\"dtype\":\"I64\",\"shape\":[0,7],"
             "\"data_offsets\":[6,6]},\"scalar\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[14,15]}}    ",
             15);
    add_file(add,
             "{\"f\":{\"shape\":[1,1,1,1,1,1,1,1],\"dtype\":\"F8_E4M3\",\"data_offsets\":[0,1]},\"g\":{\"dtype\":\"F64\","
             "\"shape\":[2],"
             "\"data_offsets\":[1,17]},\"h\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[17,19]}}",
             19);
}
