/* test_tokenizer_kinds.c - agreement with the reference packages for every family's form of vocabulary and for tokenizers with
 * random parts: the 2,000 strings of the fixtures, by checksums of ids and of decoded texts. With an argument NAME=DIR a real
 * tokenizer is compared with the checksums that are kept of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/text/tokenizer.h"
#include "model/text/tokenizer_parts.h"
#include "tests/unit/model/fixture.h"

#include <check.h> /* last: it has a macro called fail */

static const char *const names[] = {"deepseek_v3", "glm4_moe", "gpt_oss",     "kimi_k2", "llama4",
                                    "minimax_m2",  "mixtral",  "unigram_spm", "unigram", "wordpiece"};
enum { NAMES = sizeof names / sizeof *names, STRINGS = 2000 };

static const char *real; /* NAME=DIR, or NULL */

struct string {
    const char *s;
    size_t len;
};
static struct string strings[STRINGS];
static struct fixture strings_file;

static void read_strings(void) {
    fixture_open(&strings_file, "tokenizer/strings");
    for (int i = 0; i < STRINGS; i++) {
        strings[i].len = fixture_u32(&strings_file);
        strings[i].s = fixture_bytes(&strings_file, strings[i].len);
    }
}

/* CRC-32 as zlib computes it. */
static uint32_t crc32_of(const void *data, size_t len) {
    const unsigned char *p = data;
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (0xedb88320 & -(crc & 1));
    }
    return ~crc;
}

static uint32_t text_sum(const struct tokenizer *t, const struct token_list *l, bool skip) {
    struct text_buf b = {0};
    if (tokenizer_decode(t, l->ids, l->len, skip, &b) < 0) return 1;
    uint32_t sum = crc32_of(b.data ? b.data : "", b.len);
    text_buf_clear(&b);
    return sum;
}

/* Whether string i gives what the record says. */
static void expect(const struct tokenizer *t, bool parse_special, int i, struct fixture *want, const char *name) {
    struct token_list l = {0};
    struct why why = {""};
    int n = (int)fixture_u16(want);
    uint32_t ids = fixture_u32(want), text = fixture_u32(want), plain = fixture_u32(want);
    int rc = tokenizer_encode(t, strings[i].s, strings[i].len, false, parse_special, 1 << 20, &l, &why);
    ck_assert_msg(rc == 0, "%s string %d: %s", name, i, why.text);
    bool same = l.len == n && crc32_of(l.ids ? l.ids : (int32_t[1]){0}, (size_t)l.len * sizeof *l.ids) == ids;
    ck_assert_msg(same, "%s string %d '%.80s': other ids than the reference's %d", name, i, strings[i].s, n);
    ck_assert_msg(text_sum(t, &l, false) == text && text_sum(t, &l, true) == plain, "%s string %d '%.80s': decoded differently",
                  name, i, strings[i].s);
    token_list_clear(&l);
}

static void expect_all(const char *dir, const char *name, bool parse_special) {
    char path[200];
    struct tokenizer *t = NULL;
    struct why why = {""};
    struct fixture sums;
    int rc = tokenizer_open(dir, &t, &why);
    ck_assert_msg(rc == 0, "%s: %s", name, why.text);
    snprintf(path, sizeof path, "tokenizer_kinds/%s.sums", name);
    fixture_open(&sums, path);
    for (int i = 0; i < STRINGS; i++) expect(t, parse_special, i, &sums, name);
    ck_assert(fixture_end(&sums));
    fixture_close(&sums);
    tokenizer_close(t);
}

START_TEST(families_agree) {
    char dir[4096];
    snprintf(dir, sizeof dir, "%s/tokenizer_kinds/%s", FIXTURES, names[_i]);
    bool spm = !strcmp(names[_i], "mixtral") || !strcmp(names[_i], "unigram_spm"); /* the package takes "<s>" for text */
    expect_all(dir, names[_i], !spm);
}
END_TEST

START_TEST(a_real_one_agrees) {
    if (!real) return; /* skipped: give NAME=DIR as the argument */
    char name[100];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(real, "="), real);
    expect_all(real + strcspn(real, "=") + 1, name, true);
}
END_TEST

static const struct {
    const char *name;
    int least;
} packs[] = {{"mixed", 40}, {"altered", 10}};

START_TEST(random_parts_agree) {
    struct fixture f;
    char path[60];
    snprintf(path, sizeof path, "tokenizer_kinds/%s", packs[_i].name);
    fixture_open(&f, path);
    int n = 0;
    for (; !fixture_end(&f); n++) {
        char name[40];
        struct tokenizer *t = NULL;
        struct why why = {""};
        bool model = *fixture_bytes(&f, 1);
        size_t len = fixture_u32(&f);
        const char *bytes = fixture_bytes(&f, len);
        int rc = model ? tokenizer_from_model(bytes, len, &(struct tokenizer_hints){0}, &t, &why)
                       : tokenizer_parse(bytes, len, &t, &why);
        snprintf(name, sizeof name, "%s %d", packs[_i].name, n);
        bool refused = rc == ERR_UNSUPPORTED && strstr(why.text, "behind Fuse"); /* a decoder that cannot be done as a stream */
        ck_assert_msg(rc == 0 || refused, "%s: %s", name, why.text);
        for (int rows = (int)fixture_u16(&f); rows > 0; rows--) {
            int i = (int)fixture_u16(&f);
            if (refused) fixture_bytes(&f, 14);
            else expect(t, !model, i, &f, name);
        }
        tokenizer_close(t);
    }
    ck_assert_int_ge(n, packs[_i].least);
    fixture_close(&f);
}
END_TEST

/* What stands around a text, and special tokens, of vocabularies that come without tokenizer.json. */
START_TEST(bare_vocabularies_have_their_special_tokens) {
    char dir[4096];
    struct tokenizer *t = NULL;
    struct token_list l = {0};
    struct why why = {""};
    snprintf(dir, sizeof dir, "%s/tokenizer_kinds/mixtral", FIXTURES);
    ck_assert_int_eq(tokenizer_open(dir, &t, &why), 0);
    ck_assert_int_eq(tokenizer_id(t, "</s>"), 2);
    ck_assert(tokenizer_is_special(t, 1) && !tokenizer_is_special(t, 3 + 'a'));
    ck_assert_int_eq(tokenizer_encode(t, "</s>", 4, true, true, 10, &l, &why), 0);
    ck_assert(l.len == 2 && l.ids[0] == 1 && l.ids[1] == 2);
    tokenizer_close(t);
    l.len = 0;
    snprintf(dir, sizeof dir, "%s/tokenizer_kinds/kimi_k2", FIXTURES);
    ck_assert_int_eq(tokenizer_open(dir, &t, &why), 0);
    int base = tokenizer_id(t, "[BOS]");
    ck_assert_int_eq(tokenizer_vocab(t), base + 256);
    ck_assert_int_eq(tokenizer_id(t, "<|im_middle|>"), base + 8);
    ck_assert_int_ge(tokenizer_id(t, "<|reserved_token_906|>"), base);
    ck_assert(tokenizer_is_special(t, base + 8) && !tokenizer_is_special(t, base + 3));
    ck_assert_int_eq(tokenizer_encode(t, "<|im_user|>", 11, true, true, 10, &l, &why), 0);
    ck_assert(l.len == 1 && l.ids[0] == base + 3);
    tokenizer_close(t);
    token_list_clear(&l);
}
END_TEST

/* Ids of n letters in one word, appended. */
static void encode_letters(const struct tokenizer *t, char letter, size_t n, struct token_list *out) {
    char *text = malloc(n);
    struct why why = {""};
    memset(text, letter, n);
    ck_assert_int_eq(tokenizer_encode(t, text, n, true, true, 1 << 20, out, &why), 0);
    free(text);
}

/* Kimi's own tokeniser cuts long runs, and all text each 400,000 characters; nothing merges across the cuts. */
START_TEST(kimi_cuts_long_text) {
    char dir[4096];
    struct tokenizer *t = NULL;
    struct token_list whole = {0}, parts = {0};
    struct why why = {""};
    snprintf(dir, sizeof dir, "%s/tokenizer_kinds/kimi_k2", FIXTURES);
    ck_assert_int_eq(tokenizer_open(dir, &t, &why), 0);
    for (int i = 0; i < 2; i++) {
        whole.len = parts.len = 0;
        encode_letters(t, "\t "[i], 60001, &whole);
        encode_letters(t, "\t "[i], 25000, &parts);
        encode_letters(t, "\t "[i], 25000, &parts);
        encode_letters(t, "\t "[i], 10001, &parts);
        ck_assert(whole.len == parts.len && !memcmp(whole.ids, parts.ids, (size_t)whole.len * sizeof *whole.ids));
    }
    struct text_buf b = {0}; /* 399,999 characters of words, then "\n\n" over the cut */
    for (int i = 0; i < 400000; i++) text_buf_append(&b, i == 399999 ? "\n" : i % 2 ? " " : "e", 1);
    text_buf_append(&b, "\nthe", 4);
    whole.len = parts.len = 0;
    ck_assert_int_eq(tokenizer_encode(t, b.data, b.len, true, true, 1 << 20, &whole, &why), 0);
    ck_assert_int_eq(tokenizer_encode(t, b.data, 400000, true, true, 1 << 20, &parts, &why), 0);
    ck_assert_int_eq(tokenizer_encode(t, b.data + 400000, 4, true, true, 1 << 20, &parts, &why), 0);
    ck_assert(whole.len == parts.len && !memcmp(whole.ids, parts.ids, (size_t)whole.len * sizeof *whole.ids));
    text_buf_clear(&b);
    token_list_clear(&whole);
    token_list_clear(&parts);
    tokenizer_close(t);
}
END_TEST

/* ---- nonsense ---- */

static const struct {
    const char *bytes;
    size_t len;
    const char *what;
} refused[] = {
#define BYTES(s) s, sizeof s - 1
    {BYTES(""), "is empty"},
    {BYTES("YQ== 0\nYg=="), "line 2 is not 'BASE64 RANK'"},
    {BYTES("YQ== 0\nYQ== 1\n"), "line 2: its token or its rank 1 is there twice"},
    {BYTES("YQ== 0\nYg== 0\n"), "is there twice"},
    {BYTES("YQ= 0\n"), "is not base64"},
    {BYTES("YQ== 99999999999999999999\n"), "line 1 is not"},
    {BYTES("\n\x05\n"), "neither a whole SentencePiece model nor"},
    {BYTES("\n\x02\n\x05"), "damaged"},
    {BYTES("\n\x03\n\x01\xff"), "piece 0 is empty, not UTF-8"},
    {BYTES("\n\x03\n\x01"
           "a"),
     "unk_id 0 is not the unknown piece"},
    {BYTES("\n\x05\n\x01"
           "a\x18\x02\x12\x02\x18\x03"),
     "model type 3 is not known"},
    {BYTES("\n\x05\n\x01"
           "a\x18\x02\n\x03\n\x01"
           "a"),
     "there twice"},
    {BYTES("\n\x05\n\x01"
           "a\x18\x02\x1a\x04\x12\x02\x01\x02"),
     "cut short"},
};

START_TEST(nonsense_is_refused) {
    struct tokenizer *t = NULL;
    struct why why = {""};
    struct tokenizer_hints hints = {.file = "o200k_base.tiktoken"};
    ck_assert_int_lt(tokenizer_from_model(refused[_i].bytes, refused[_i].len, &hints, &t, &why), 0);
    ck_assert_msg(!t && strstr(why.text, refused[_i].what), "%d: %s", _i, why.text);
}
END_TEST

/* GPT-OSS's vocabulary file alone: the special tokens of its chat format stand at fixed ids behind it. */
START_TEST(harmony_tokens_follow_their_vocabulary) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    enum { RANKS = 199998 };
    struct text_buf b = {0};
    for (uint32_t i = 0; i < RANKS; i++) { /* all single bytes, then all pairs, then triples */
        uint32_t len = i < 256 ? 1 : i < 65792 ? 2 : 3, v = (len == 1 ? i : len == 2 ? i - 256 : i - 65792) << (24 - 8 * len);
        char line[32];
        int n = snprintf(line, sizeof line, "%c%c%c%c %u\n", digits[v >> 18 & 63], digits[v >> 12 & 63],
                         len > 1 ? digits[v >> 6 & 63] : '=', len > 2 ? digits[v & 63] : '=', i);
        text_buf_append(&b, line, (size_t)n);
    }
    json_t *config = json_pack("{s:s}", "model_type", "gpt_oss");
    struct tokenizer_hints hints = {.config = config, .file = "o200k_base.tiktoken"};
    struct tokenizer *t = NULL;
    struct token_list l = {0};
    struct why why = {""};
    int rc = tokenizer_from_model(b.data, b.len, &hints, &t, &why);
    ck_assert_msg(rc == 0, "%s", why.text);
    ck_assert_int_eq(tokenizer_id(t, "<|channel|>"), 200005);
    ck_assert_int_eq(tokenizer_id(t, "<|reserved_200009|>"), 200009);
    ck_assert_int_eq(tokenizer_vocab(t), 201088);
    ck_assert_int_eq(tokenizer_encode(t, "<|start|>a<|end|>", 17, true, true, 10, &l, &why), 0);
    ck_assert(l.len == 3 && l.ids[0] == 200006 && l.ids[1] == 'a' && l.ids[2] == 200007);
    token_list_clear(&l);
    tokenizer_close(t);
    json_decref(config);
    text_buf_clear(&b);
}
END_TEST

START_TEST(an_unknown_family_has_no_pattern) {
    struct tokenizer *t = NULL;
    struct why why = {""};
    ck_assert_int_eq(tokenizer_from_model("YQ== 0\n", 7, &(struct tokenizer_hints){.file = "tokenizer.model"}, &t, &why),
                     ERR_UNSUPPORTED);
    ck_assert(!t && strstr(why.text, "kimi_k2"));
}
END_TEST

int main(int argc, char **argv) {
    if (argc > 1) real = argv[1];
    read_strings();
    TCase *c = tcase_create("kinds");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, families_agree, 0, NAMES);
    tcase_add_test(c, a_real_one_agrees);
    tcase_add_loop_test(c, random_parts_agree, 0, sizeof packs / sizeof *packs);
    tcase_add_test(c, bare_vocabularies_have_their_special_tokens);
    tcase_add_test(c, kimi_cuts_long_text);
    tcase_add_loop_test(c, nonsense_is_refused, 0, sizeof refused / sizeof *refused);
    tcase_add_test(c, harmony_tokens_follow_their_vocabulary);
    tcase_add_test(c, an_unknown_family_has_no_pattern);
    Suite *s = suite_create("tokenizer_kinds");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    fixture_close(&strings_file);
    return failed != 0;
}
