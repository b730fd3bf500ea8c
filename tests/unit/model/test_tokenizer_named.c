/* test_tokenizer_named.c - a tokenizer.json with other files beside it that name tokens, as AutoTokenizer reads them
 * (tests/fixtures/tokenizer_named.jsonl). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "model/text/tokenizer.h"
#include "tests/unit/model/fixture.h"

#include "tests/unit/run.h"

/* Writes the files of a folder, or removes them. */
static void each_file(const char *dir, const json_t *files, bool write) {
    const char *name;
    json_t *text;
    json_object_foreach((json_t *)files, name, text) {
        char path[300];
        snprintf(path, sizeof path, "%s/%s", dir, name);
        if (!write) {
            unlink(path);
            continue;
        }
        FILE *f = fopen(path, "w");
        ck_assert_ptr_nonnull(f);
        fwrite(json_string_value(text), 1, json_string_length(text), f);
        ck_assert_int_eq(fclose(f), 0);
    }
}

static void expect_text(const struct tokenizer *t, const struct token_list *l, bool skip, const json_t *want, int line) {
    struct text_buf b = {0};
    ck_assert_int_eq(tokenizer_decode(t, l->ids, l->len, skip, &b), 0);
    const char *got = b.data ? b.data : "";
    ck_assert_msg(!strcmp(got, json_string_value(want)), "line %d: '%s', wanted '%s'", line, got, json_string_value(want));
    text_buf_clear(&b);
}

static void expect_row(const struct tokenizer *t, const json_t *row, int line) {
    struct token_list l = {0};
    struct why why = {""};
    const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, "ids");
    int rc = tokenizer_encode(t, json_string_value(text), json_string_length(text), true, true, 100, &l, &why);
    ck_assert_msg(rc == 0 && (size_t)l.len == json_array_size(ids), "line %d: %s: %d tokens, wanted %zu: %s", line,
                  json_string_value(text), l.len, json_array_size(ids), why.text);
    for (int i = 0; i < l.len; i++) ck_assert_int_eq(l.ids[i], json_integer_value(json_array_get(ids, (size_t)i)));
    expect_text(t, &l, false, json_object_get(row, "decoded"), line);
    expect_text(t, &l, true, json_object_get(row, "plain"), line);
    token_list_clear(&l);
}

START_TEST(as_the_reference) {
    struct fixture f;
    int n = 0;
    char dir[] = "/tmp/tokenizer_named_XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    fixture_open(&f, "tokenizer_named.jsonl");
    for (char *line = f.data, *end; (end = strchr(line, '\n')); line = end + 1, n++) {
        json_t *entry = json_loadb(line, (size_t)(end - line), 0, NULL);
        const json_t *files = json_object_get(entry, "files"), *rows = json_object_get(entry, "rows"), *row;
        struct tokenizer *t = NULL;
        struct why why = {""};
        size_t i;
        each_file(dir, files, true);
        int rc = tokenizer_open(dir, &t, &why);
        each_file(dir, files, false);
        ck_assert_msg(rc == 0, "line %d: %s", n + 1, why.text);
        json_array_foreach(rows, i, row) expect_row(t, row, n + 1);
        tokenizer_close(t);
        json_decref(entry);
    }
    rmdir(dir);
    ck_assert_int_ge(n, 30);
    fixture_close(&f);
}
END_TEST

RUN("tokenizer_named", NULL, NULL, as_the_reference)
