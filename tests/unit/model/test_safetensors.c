/* test_safetensors.c - a valid file gives back what was written; every way to break one gives an error that says where. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/model/tiny.h"

#include "tests/unit/run.h"


static void *make(const char *header, size_t data_bytes, size_t *bytes) {
    size_t n = strlen(header);
    uint8_t *file = calloc(1, 8 + n + data_bytes);
    ck_assert_ptr_nonnull(file);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++) file[8 + n + i] = (uint8_t)i;
    *bytes = 8 + n + data_bytes;
    return file;
}

START_TEST(reads_what_was_written) {
    size_t bytes;
    uint8_t *file =
        make("{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[12,20]},"
             "\"b\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},\"none\":{\"dtype\":\"I64\",\"shape\":[0,7],"
             "\"data_offsets\":[12,12]},\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[20,21]}}   ",
             21, &bytes);
    struct st_set *s;
    struct why why = {""};
    ck_assert_msg(st_open_memory(file, bytes, &s, &why) == 0, "%s", why.text);
    ck_assert_int_eq(st_count(s), 4);
    ck_assert_uint_eq(st_total_bytes(s), 21);
    ck_assert_str_eq(st_at(s, 0)->name, "b");
    const struct st_tensor *w = st_find(s, "w");
    char shape[64];
    ck_assert_int_eq(w->dtype, ST_BF16);
    ck_assert_int_eq(w->dims, 2);
    ck_assert_str_eq(st_shape_text(w, shape, sizeof shape), "[2, 2]");
    ck_assert_int_eq(*(const uint8_t *)w->data, 12);
    ck_assert_uint_eq(w->bytes, 8);
    ck_assert_uint_eq(st_find(s, "none")->bytes, 0);
    ck_assert_int_eq(st_find(s, "one")->dims, 0);
    ck_assert_int_eq(*(const uint8_t *)st_find(s, "one")->data, 20);
    ck_assert_ptr_null(st_find(s, "x"));
    ck_assert_ptr_null(st_find(s, "__metadata__"));
    st_close(s);
    st_close(NULL);
    free(file);
}
END_TEST

#define T(dtype, shape, offsets) "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"
static const struct {
    const char *header;
    size_t data_bytes;
    int code;
    const char *says;
} broken[] = {
    {"", 0, ERR_CORRUPT, "does not begin with '{'"},
    {"   {}", 0, ERR_CORRUPT, "does not begin with '{'"},
    {"[]", 0, ERR_CORRUPT, "does not begin with '{'"},
    {"{", 0, ERR_CORRUPT, "header, line 1"},
    {"{}x", 0, ERR_CORRUPT, "header, line 1"},
    {"{\"a\":\"\xff\"}", 0, ERR_CORRUPT, "header, line 1"},
    {"{}", 1, ERR_CORRUPT, "end at byte 0 of the data, but the file has 1"},
    {"{\"a\":1}", 0, ERR_CORRUPT, "tensor a: not an object"},
    {"{\"\":" T("\"U8\"", "[1]", "[0,1]") "}", 1, ERR_CORRUPT, "name of 0 bytes"},
    {"{\"a\\nb\":" T("\"U8\"", "[1]", "[0,1]") "}", 1, ERR_CORRUPT, "control character"},
    {"{\"a\":" T("\"U8\"", "[1]", "[0,1]") ",\"a\":" T("\"U8\"", "[1]", "[0,1]") "}", 1, ERR_CORRUPT, "duplicate"},
    {"{\"__metadata__\":3}", 0, ERR_CORRUPT, "__metadata__"},
    {"{\"__metadata__\":{\"n\":3}}", 0, ERR_CORRUPT, "\"n\" is not a string"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ERR_CORRUPT, "tensor a: dtype is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, ERR_CORRUPT, "tensor a: shape is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, ERR_CORRUPT, "tensor a: data_offsets is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"scale\":2}}", 1, ERR_UNSUPPORTED,
     "unknown member \"scale\""},
    {"{\"a\":" T("\"F4\"", "[1]", "[0,1]") "}", 1, ERR_UNSUPPORTED, "dtype is \"F4\""},
    {"{\"a\":" T("7", "[1]", "[0,1]") "}", 1, ERR_INVALID, "dtype is 7; wanted a string"},
    {"{\"a\":" T("\"U8\"", "1", "[0,1]") "}", 1, ERR_INVALID, "shape is 1; wanted a list"},
    {"{\"a\":" T("\"U8\"", "[-1]", "[0,1]") "}", 1, ERR_CORRUPT, "shape[0] is -1"},
    {"{\"a\":" T("\"U8\"", "[1.0]", "[0,1]") "}", 1, ERR_CORRUPT, "shape[0] is 1"},
    {"{\"a\":" T("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, ERR_UNSUPPORTED, "9 dimensions"},
    {"{\"a\":" T("\"F64\"", "[4294967296,4294967296]", "[0,0]") "}", 0, ERR_TOO_LARGE, "more bytes than memory has addresses"},
    {"{\"a\":" T("\"F64\"", "[9223372036854775807]", "[0,8]") "}", 8, ERR_TOO_LARGE, "more bytes than memory has addresses"},
    {"{\"a\":" T("\"U8\"", "[1]", "[0]") "}", 1, ERR_CORRUPT, "wanted [begin, end]"},
    {"{\"a\":" T("\"U8\"", "[1]", "[0,\"1\"]") "}", 1, ERR_CORRUPT, "wanted [begin, end]"},
    {"{\"a\":" T("\"U8\"", "[1]", "[1,0]") "}", 1, ERR_CORRUPT, "data_offsets are [1, 0]"},
    {"{\"a\":" T("\"U8\"", "[1]", "[-1,0]") "}", 1, ERR_CORRUPT, "data_offsets are [-1, 0]"},
    {"{\"a\":" T("\"U8\"", "[2]", "[0,2]") "}", 1, ERR_CORRUPT, "within the 1 bytes"},
    {"{\"a\":" T("\"U8\"", "[2]", "[0,9223372036854775807]") "}", 1, ERR_CORRUPT, "within the 1 bytes"},
    {"{\"a\":" T("\"U8\"", "[2]", "[0,9223372036854775808]") "}", 1, ERR_CORRUPT, "header, line 1"},
    {"{\"a\":" T("\"F32\"", "[2]", "[0,4]") "}", 4, ERR_CORRUPT, "span 4 bytes; wanted 8 for F32 of [2]"},
    {"{\"a\":" T("\"U8\"", "[2]", "[0,2]") ",\"b\":" T("\"U8\"", "[2]", "[1,3]") "}", 3, ERR_CORRUPT, "overlap"},
    {"{\"a\":" T("\"U8\"", "[2]", "[0,2]") ",\"b\":" T("\"U8\"", "[2]", "[0,2]") "}", 2, ERR_CORRUPT, "overlap"},
    {"{\"a\":" T("\"U8\"", "[2]", "[1,3]") "}", 3, ERR_CORRUPT, "hole"},
    {"{\"a\":" T("\"U8\"", "[2]", "[0,2]") ",\"b\":" T("\"U8\"", "[2]", "[3,5]") "}", 5, ERR_CORRUPT,
     "tensor b begins at byte 3"},
    {"{\"a\":" T("\"U8\"", "[2]", "[0,2]") "}", 5, ERR_CORRUPT, "end at byte 2 of the data, but the file has 5"},
};

START_TEST(refuses_with_reason) {
    size_t bytes;
    uint8_t *file = make(broken[_i].header, broken[_i].data_bytes, &bytes);
    struct st_set *s = NULL;
    struct why why = {""};
    int rc = st_open_memory(file, bytes, &s, &why);
    ck_assert_msg(rc == broken[_i].code, "%s: %s %s", broken[_i].header, status_name(rc), why.text);
    ck_assert_msg(strstr(why.text, broken[_i].says) && strstr(why.text, "memory: "), "%s: says '%s', wanted '%s'",
                  broken[_i].header, why.text, broken[_i].says);
    ck_assert_ptr_null(s);
    free(file);
}
END_TEST

START_TEST(refuses_lengths) {
    const struct {
        uint64_t claim;
        size_t bytes;
        const char *says;
    } cases[] = {{0, 0, "0 bytes long"},
                 {2, 7, "7 bytes long"},
                 {3, 10, "claims 3 bytes, but only 2 follow"},
                 {UINT64_MAX, 10, "claims 18446744073709551615 bytes"},
                 {UINT64_MAX - 7, 10, "claims"},
                 {1 << 26, 10, "at most"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t *file = malloc(cases[i].bytes ? cases[i].bytes : 1), whole[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        for (int b = 0; b < 8; b++) whole[b] = (uint8_t)(cases[i].claim >> 8 * b);
        memcpy(file, whole, cases[i].bytes);
        struct st_set *s = NULL;
        struct why why = {""};
        ck_assert_int_lt(st_open_memory(file, cases[i].bytes, &s, &why), 0);
        ck_assert_msg(strstr(why.text, cases[i].says) != NULL, "%s", why.text);
        free(file);
    }
}
END_TEST

/* Either a clear refusal, or a set that lies inside the file. */
static bool check_any(const uint8_t *file, size_t bytes) {
    struct st_set *s = NULL;
    struct why why = {""};
    int rc = st_open_memory(file, bytes, &s, &why);
    if (rc < 0) {
        if (s || strncmp(why.text, "memory: ", 8) || strlen(why.text) <= 20) ck_abort_msg("'%s'", why.text);
        return false;
    }
    for (int i = 0; i < st_count(s); i++) {
        const uint8_t *p = st_at(s, i)->data;
        if (p < file + 8 || st_at(s, i)->bytes > (size_t)(file + bytes - p)) ck_abort_msg("%s lies outside", st_at(s, i)->name);
    }
    st_close(s);
    return true;
}

static uint8_t *read_golden(const char *name, size_t *bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s/model.safetensors", GOLDEN_DATA, name);
    FILE *f = fopen(path, "re");
    ck_assert_msg(f != NULL, "cannot open %s", path);
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    uint8_t *file = malloc(*bytes);
    ck_assert(file && fread(file, 1, *bytes, f) == *bytes);
    fclose(f);
    return file;
}

/* A file of two kilobytes of header: every byte of it, with every bit flipped and replaced by what JSON cares about. */
START_TEST(every_header_byte) {
    static const char *const names[] = {"w", "layer.0.norm", "layer.0.experts.3.up", "b", "c", "d", "e", "f"};
    struct st_writer w = {0};
    uint8_t data[64] = {0};
    for (int i = 0; i < 8; i++)
        st_writer_add(&w, names[i], i % 2 ? "F32" : "BF16", i % 3 ? "[4,2]" : "[8]", data, i % 2 ? 32 : 16);
    size_t bytes;
    uint8_t *file = st_writer_file(&w, &bytes);
    const size_t end = bytes - 4 * 32 - 4 * 16;
    static const char marks[] = "{}[]\",:0-9\\ \n\x7f";
    ck_assert(check_any(file, bytes));
    int refused = 0, tried = 0;
    for (size_t i = 0; i < end; i++) {
        const uint8_t keep = file[i];
        for (int m = 0; m < 8 + (int)sizeof marks; m++, tried++) {
            file[i] = m < 8 ? (uint8_t)(keep ^ 1 << m) : (uint8_t)marks[m - 8];
            refused += !check_any(file, bytes);
        }
        file[i] = keep;
    }
    ck_assert_int_gt(refused, tried * 3 / 4); /* the rest: a changed name, a reordered dtype of equal size, ... */
    for (size_t n = 0; n < bytes; n++) {
        uint8_t *cut = malloc(n ? n : 1); /* its own block, so that a sanitizer sees a read behind it */
        memcpy(cut, file, n);
        ck_assert_msg(!check_any(cut, n), "accepted when cut to %zu of %zu bytes", n, bytes);
        free(cut);
    }
    free(file);
}
END_TEST

/* Real headers: every byte position once more, with a different damage at each. */
START_TEST(every_golden_header_byte) {
    static const char *const names[] = {"llama", "mixtral"};
    size_t bytes, header = 0;
    uint8_t *file = read_golden(names[_i], &bytes);
    for (int i = 7; i >= 0; i--) header = header << 8 | file[i];
    ck_assert(check_any(file, bytes));
    for (size_t i = 0; i < 8 + header; i++) {
        const uint8_t keep = file[i];
        file[i] = (uint8_t)(keep ^ 1 << i % 8);
        check_any(file, bytes);
        file[i] = "\"{}[]:,0"[i % 8];
        check_any(file, bytes);
        file[i] = keep;
    }
    for (size_t n = 0; n < bytes; n += n < 9 + header ? 13 : 1009) ck_assert(!check_any(file, n));
    ck_assert(check_any(file, bytes));
    free(file);
}
END_TEST

static void expect(const struct scratch *dir, int code, const char *says) {
    struct st_set *s = NULL;
    struct why why = {""};
    int rc = st_open(dir->dir, &s, &why);
    ck_assert_msg(rc == code, "%s: %s", status_name(rc), why.text);
    ck_assert_msg(strstr(why.text, says) != NULL, "says '%s', wanted '%s'", why.text, says);
    st_close(s);
}

START_TEST(directories) {
    struct scratch dir;
    scratch_open(&dir);
    expect(&dir, ERR_NOT_FOUND, "neither model.safetensors nor");
    scratch_text(&dir, "model.safetensors.index.json", "{}");
    expect(&dir, ERR_CORRUPT, "weight_map is missing");
    scratch_text(&dir, "model.safetensors.index.json", "{\"weight_map\":{}}");
    expect(&dir, ERR_CORRUPT, "weight_map names no tensor");
    scratch_text(&dir, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"x.safetensors\"}}");
    expect(&dir, ERR_NOT_FOUND, "x.safetensors");
    static const char *const evil[] = {
        "\"../x.safetensors\"", "\"/etc/passwd\"", "\"\"", "\".\"", "\"..\"", "\"a/b\"", "3", "null"};
    for (size_t i = 0; i < sizeof evil / sizeof *evil; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":%s}}", evil[i]);
        scratch_text(&dir, "model.safetensors.index.json", text);
        expect(&dir, ERR_CORRUPT, "wanted a file name in the same directory");
    }
    scratch_text(&dir, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"tensors\"}");
    expect(&dir, ERR_CORRUPT, "index.json, line 1");
    scratch_text(&dir, "model.safetensors", "");
    expect(&dir, ERR_CORRUPT, "model.safetensors: 0 bytes long");
    scratch_remove(&dir);
    expect(&dir, ERR_NOT_FOUND, "neither");
}
END_TEST

static void write_shard(const struct scratch *dir, const char *file, const char *const *tensors, int n) {
    struct st_writer w = {0};
    size_t bytes;
    for (int i = 0; i < n; i++) st_writer_add(&w, tensors[i], "U8", "[3]", "abc", 3);
    void *data = st_writer_file(&w, &bytes);
    scratch_write(dir, file, data, bytes);
    free(data);
}

START_TEST(shards) {
    struct scratch dir;
    struct st_set *s;
    struct why why = {""};
    scratch_open(&dir);
    write_shard(&dir, "one", (const char *const[]){"c", "a"}, 2);
    write_shard(&dir, "two", (const char *const[]){"b"}, 1);
    scratch_text(&dir, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"one\",\"b\":\"two\",\"c\":\"one\"}}");
    ck_assert_msg(st_open(dir.dir, &s, &why) == 0, "%s", why.text);
    ck_assert_int_eq(st_count(s), 3);
    ck_assert_int_eq(st_file_count(s), 2);
    ck_assert_str_eq(st_at(s, 1)->name, "b");
    ck_assert_mem_eq(st_find(s, "b")->data, "abc", 3);
    st_close(s);
    scratch_text(&dir, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"one\",\"b\":\"one\"}}");
    expect(&dir, ERR_NOT_FOUND, "tensor \"b\" is not in one");
    scratch_text(&dir, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"two\",\"b\":\"two\",\"c\":\"one\"}}");
    expect(&dir, ERR_CORRUPT, "weight_map puts it in two");
    write_shard(&dir, "two", (const char *const[]){"b", "a"}, 2);
    expect(&dir, ERR_CORRUPT, "tensor a is in");
    write_shard(&dir, "model.safetensors", (const char *const[]){"z"}, 1); /* a single file goes first */
    ck_assert_int_eq(st_open(dir.dir, &s, &why), 0);
    ck_assert_ptr_nonnull(st_find(s, "z"));
    st_close(s);
    scratch_remove(&dir);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("safetensors");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 100);
    tcase_add_test(t, reads_what_was_written);
    tcase_add_loop_test(t, refuses_with_reason, 0, sizeof broken / sizeof *broken);
    tcase_add_test(t, refuses_lengths);
    tcase_add_test(t, every_header_byte);
    tcase_add_loop_test(t, every_golden_header_byte, 0, 2);
    tcase_add_test(t, directories);
    tcase_add_test(t, shards);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
