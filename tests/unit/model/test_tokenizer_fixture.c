/* test_tokenizer_fixture.c - exact agreement with the reference implementation on the committed fixtures: five tokenizers,
 * 2,000 strings each, with ids, ids with the post-processor, and decoded texts. Also the stream: any split gives the whole
 * text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "model/text/tokenizer.h"
#include "tests/unit/model/fixture.h"

#include "tests/unit/run.h"


static const char *const names[] = {"llama2", "llama3", "neox", "qwen2", "smollm2"};
enum { NAMES = sizeof names / sizeof names[0], STRINGS = 2000 };

static const char *model_dir; /* a real checkpoint to try besides, or NULL */

static void open_part(struct fixture *f, const char *name, const char *part) {
    char path[200];
    snprintf(path, sizeof path, "tokenizer/%s%s", name, part);
    fixture_open(f, path);
}

static struct tokenizer *open_fixture(const char *name) {
    struct fixture f;
    struct tokenizer *t = NULL;
    struct why why;
    open_part(&f, name, ".tokenizer.json");
    int rc = tokenizer_parse(f.data, f.len, &t, &why);
    ck_assert_msg(rc == 0, "%s: %s", name, rc ? why.text : "");
    fixture_close(&f);
    return t;
}

static struct token_list read_ids(struct fixture *f) {
    struct token_list l = {0};
    l.len = l.cap = (int)fixture_u16(f);
    l.ids = calloc((size_t)l.len + 1, sizeof *l.ids);
    for (int i = 0; i < l.len; i++) l.ids[i] = (int32_t)fixture_u16(f);
    return l;
}

static void expect_ids(const struct tokenizer *t, const char *s, size_t len, bool add_special, struct fixture *want,
                       const char *name, int number) {
    struct token_list w = read_ids(want), got = {0};
    struct why why;
    int rc = tokenizer_encode(t, s, len, add_special, true, 1 << 20, &got, &why);
    ck_assert_msg(rc == 0, "%s string %d: %s", name, number, rc ? why.text : "");
    bool same = got.len == w.len && (!w.len || !memcmp(got.ids, w.ids, (size_t)w.len * sizeof *w.ids));
    if (!same) {
        int at = 0;
        while (at < got.len && at < w.len && got.ids[at] == w.ids[at]) at++;
        ck_abort_msg("%s string %d (%.80s): %d ids, wanted %d; first difference at %d: %d, wanted %d", name, number, s, got.len,
                     w.len, at, at < got.len ? got.ids[at] : -1, at < w.len ? w.ids[at] : -1);
    }
    token_list_clear(&w);
    token_list_clear(&got);
}

START_TEST(encodes_as_the_reference) {
    struct tokenizer *t = open_fixture(names[_i]);
    struct fixture strings, ids, added;
    fixture_open(&strings, "tokenizer/strings");
    open_part(&ids, names[_i], ".ids");
    open_part(&added, names[_i], ".added.ids");
    int n = 0;
    for (; !fixture_end(&strings); n++) {
        size_t len = fixture_u32(&strings);
        const char *s = fixture_bytes(&strings, len);
        expect_ids(t, s, len, false, &ids, names[_i], n);
        if (n % 20 == 0) expect_ids(t, s, len, true, &added, names[_i], n);
    }
    ck_assert_int_eq(n, STRINGS);
    ck_assert(fixture_end(&ids) && fixture_end(&added));
    fixture_close(&strings);
    fixture_close(&ids);
    fixture_close(&added);
    tokenizer_close(t);
}
END_TEST

static void expect_text(const struct tokenizer *t, const struct token_list *ids, bool skip, struct fixture *want,
                        const char *name, int number) {
    size_t len = fixture_u32(want);
    const char *text = fixture_bytes(want, len);
    struct text_buf got = {0};
    ck_assert_int_eq(tokenizer_decode(t, ids->ids, ids->len, skip, &got), 0);
    ck_assert_msg(got.len == len && !memcmp(got.data ? got.data : "", text, len), "%s text %d: '%s', wanted '%.*s'", name,
                  number, got.data, (int)len, text);
    struct detokenizer *d;
    struct text_buf stream = {0};
    ck_assert_int_eq(detokenizer_new(t, skip, &d), 0);
    for (int i = 0; i < ids->len; i++) ck_assert_int_eq(detokenizer_push(d, ids->ids[i], &stream), 0);
    ck_assert_int_eq(detokenizer_flush(d, &stream), 0);
    ck_assert(stream.len == len && !memcmp(stream.data ? stream.data : "", text, len));
    detokenizer_free(d);
    text_buf_clear(&stream);
    text_buf_clear(&got);
}

START_TEST(decodes_as_the_reference) {
    struct tokenizer *t = open_fixture(names[_i]);
    struct fixture f;
    open_part(&f, names[_i], ".decode");
    for (int n = 0; !fixture_end(&f); n++) {
        struct token_list ids = read_ids(&f);
        expect_text(t, &ids, false, &f, names[_i], n);
        expect_text(t, &ids, true, &f, names[_i], n);
        token_list_clear(&ids);
    }
    fixture_close(&f);
    tokenizer_close(t);
}
END_TEST

/* With one word per text the limit must hold to the token, and an error must leave the list as it was. */
START_TEST(limits_hold) {
    struct tokenizer *t = open_fixture(names[_i]);
    struct fixture strings;
    struct why why;
    fixture_open(&strings, "tokenizer/strings");
    for (int n = 0; n < 200; n++) {
        size_t len = fixture_u32(&strings);
        const char *s = fixture_bytes(&strings, len);
        struct token_list all = {0}, part = {0};
        ck_assert_int_eq(tokenizer_encode(t, s, len, true, true, 1 << 20, &all, &why), 0);
        ck_assert_int_eq(tokenizer_encode(t, s, len, true, true, all.len, &part, &why), 0);
        ck_assert_int_eq(part.len, all.len);
        if (all.len) ck_assert_int_eq(tokenizer_encode(t, s, len, true, true, all.len - 1, &part, &why), ERR_TOO_LARGE);
        ck_assert_int_eq(part.len, all.len);
        token_list_clear(&all);
        token_list_clear(&part);
    }
    fixture_close(&strings);
    tokenizer_close(t);
}
END_TEST

START_TEST(the_real_tokenizer_agrees) {
    if (!model_dir) return; /* skipped: give the directory of SmolLM2, exact or sparse, as the argument */
    struct tokenizer *real, *copy = open_fixture("smollm2");
    struct fixture strings;
    struct why why;
    int64_t start = clk_now_us();
    int rc = tokenizer_open(model_dir, &real, &why);
    ck_assert_msg(rc == 0, "%s", rc ? why.text : "");
    printf("%s: %d ids, read in %.1f ms\n", model_dir, tokenizer_vocab(real), (double)(clk_now_us() - start) / 1000);
    ck_assert_int_eq(tokenizer_vocab(real), tokenizer_vocab(copy));
    fixture_open(&strings, "tokenizer/strings");
    while (!fixture_end(&strings)) {
        size_t len = fixture_u32(&strings);
        const char *s = fixture_bytes(&strings, len);
        struct token_list a = {0}, b = {0};
        ck_assert_int_eq(tokenizer_encode(real, s, len, false, true, 1 << 20, &a, &why), 0);
        ck_assert_int_eq(tokenizer_encode(copy, s, len, false, true, 1 << 20, &b, &why), 0);
        ck_assert(a.len == b.len && (!a.len || !memcmp(a.ids, b.ids, (size_t)a.len * sizeof *a.ids)));
        token_list_clear(&a);
        token_list_clear(&b);
    }
    fixture_close(&strings);
    tokenizer_close(real);
    tokenizer_close(copy);
}
END_TEST

int main(int argc, char **argv) {
    if (argc > 1) model_dir = argv[1];
    TCase *c = tcase_create("fixtures");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, encodes_as_the_reference, 0, NAMES);
    tcase_add_loop_test(c, decodes_as_the_reference, 0, NAMES);
    tcase_add_loop_test(c, limits_hold, 0, NAMES);
    tcase_add_test(c, the_real_tokenizer_agrees);
    Suite *s = suite_create("tokenizer_fixture");
    suite_add_tcase(s, c);
    return run_suite(s);
}
