/* test_tokenizer.c - small tokenizers written in place: added tokens, limits, broken and huge input, the stream at random,
 * threads, and every kind of nonsense that a tokenizer.json may hold. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "base/hash.h"
#include "model/text/tokenizer.h"
#include "model/text/utf8.h"
#include "tests/unit/model/fixture.h"

#include <check.h> /* last: it has a macro called fail */

static struct tokenizer *open_text(const char *json) {
    struct tokenizer *t = NULL;
    struct why why;
    int rc = tokenizer_parse(json, strlen(json), &t, &why);
    ck_assert_msg(rc == 0, "%s", rc ? why.text : "");
    return t;
}

static struct tokenizer *open_fixture(const char *name) {
    struct fixture f;
    fixture_open(&f, name);
    struct tokenizer *t = open_text(f.data);
    fixture_close(&f);
    return t;
}

/* The ids of text as "1 2 3", or the error's name. */
static const char *ids_of(const struct tokenizer *t, const char *text, size_t len, bool special, int max, char *out,
                          size_t cap) {
    struct token_list l = {0};
    struct why why;
    int rc = tokenizer_encode(t, text, len, false, special, max, &l, &why);
    size_t n = 0;
    out[0] = '\0';
    for (int i = 0; i < l.len && n < cap; i++) n += (size_t)snprintf(out + n, cap - n, "%s%d", i ? " " : "", l.ids[i]);
    if (rc < 0) snprintf(out, cap, "%s", status_name(rc));
    token_list_clear(&l);
    return out;
}

#define VOCAB                 "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\" \":3,\"ab\":4,\"abc\":5,\"bc\":6,\"x\":7}"
#define MODEL                 "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"b c\",\"a b\",\"a bc\"]}"
#define ADDED(content, flags) "{\"id\":8,\"content\":\"" content "\"" flags "}"

static const struct {
    const char *json, *text, *ids;
} cases[] = {
    {"{" MODEL "}", "abcab", "5 4"}, /* rank by rank, not left to right */
    {"{" MODEL "}", "", ""},
    {"{" MODEL "}", "aqb", "4"}, /* unknown and no unk_token: it vanishes */
    {"{\"added_tokens\":[" ADDED("<s>", ",\"special\":true") "]," MODEL "}", "a<s>b<s", "0 8 1"},
    {"{\"added_tokens\":[{\"id\":7,\"content\":\"x\",\"lstrip\":true,\"rstrip\":true}]," MODEL "}", "a x b", "0 7 1"},
    {"{\"added_tokens\":[{\"id\":7,\"content\":\"x\",\"single_word\":true}]," MODEL "}", "ax x xb.x", "0 7 3 7 3 7 1 7"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"unk_token\":\"x\"}}", "aqqb", "0 7 7 1"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"unk_token\":\"x\",\"fuse_unk\":true}}", "aqqb", "0 7 1"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"unk_token\":\"zz\"}}", "aqb", "INVALID"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"ignore_merges\":true}}", "abc", "5"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"<0xC3>\":0,\"<0xA9>\":1,\"a\":2},\"merges\":[],\"byte_fallback\":true}}",
     "a\xc3\xa9", "2 0 1"},
    {"{\"normalizer\":{\"type\":\"Lowercase\"},\"added_tokens\":[" ADDED("<X>", ",\"normalized\":true") "]," MODEL "}",
     "AB<x>C", "4 8 2"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"b\"},\"behavior\":\"MergedWithPrevious\",\"invert\":"
     "false}," MODEL "}",
     "abc", "4 2"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a</w>\":0,\"a\":1,\"aa</w>\":2},\"merges\":[\"a "
     "a</w>\"],\"end_of_word_suffix\":"
     "\"</w>\"}}",
     "aa", "2"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"##a\":1,\"aa\":2},\"merges\":[\"a "
     "##a\"],\"continuing_subword_prefix\":\"##\"}}",
     "aaa", "2 1"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"u\",0],[\"a\",-1],[\"b\",-1],[\"ab\",-1.5],[\"ba\",-3]],\"unk_id\":0}}",
     "abaqqb", "3 1 0 2"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0],[\"<0xC3>\",-1],[\"<0xA9>\",-1],[\"u\",-1]],\"unk_id\":3,\"byte_"
     "fallback\":true}}",
     "a\xc3\xa9", "0 1 2"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":null}}", "ab", "INVALID"},
    {"{\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":0,\"ab\":1,\"##"
     "ab\":2,\"##c\":3}}}",
     "ababc abx", "1 2 3 0"},
    {"{\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"<unk>\":0,\"ab\":1}}}",
     "ab b", "1 0"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\\u0000\":0,\"a\":1,\"\\u0000a\":2},\"merges\":[[\"\\u0000\",\"a\"]]}}", "a",
     "1"},
};

START_TEST(encodes) {
    struct tokenizer *t = open_text(cases[_i].json);
    char got[200];
    ck_assert_str_eq(ids_of(t, cases[_i].text, strlen(cases[_i].text), true, 100, got, sizeof got), cases[_i].ids);
    tokenizer_close(t);
}
END_TEST

START_TEST(nul_is_a_character) {
    struct tokenizer *t = open_text(cases[sizeof cases / sizeof *cases - 1].json);
    char got[50];
    ck_assert_str_eq(ids_of(t, "a\0a\0", 4, true, 100, got, sizeof got), "1 2 0");
    tokenizer_close(t);
}
END_TEST

START_TEST(special_tokens_are_optional) {
    struct tokenizer *t = open_text(
        "{\"added_tokens\":[{\"id\":8,\"content\":\"<s>\",\"special\":true},{\"id\":9,\"content\":\"<n>\"}]," MODEL "}");
    char got[50];
    ck_assert_str_eq(ids_of(t, "a<s><n>b", 8, true, 100, got, sizeof got), "0 8 9 1");
    ck_assert_str_eq(ids_of(t, "a<s><n>b", 8, false, 100, got, sizeof got), "0 9 1");
    ck_assert(tokenizer_is_special(t, 8) && !tokenizer_is_special(t, 9) && !tokenizer_is_special(t, 0) &&
              !tokenizer_is_special(t, -1));
    ck_assert_int_eq(tokenizer_vocab(t), 10);
    ck_assert_int_eq(tokenizer_id(t, "<n>"), 9);
    ck_assert_int_eq(tokenizer_id(t, "abc"), 5);
    ck_assert_int_eq(tokenizer_id(t, "nope"), -1);
    size_t len;
    ck_assert_str_eq(tokenizer_token(t, 9, &len), "<n>");
    ck_assert(!tokenizer_token(t, 10, &len) && !tokenizer_token(t, -1, &len));
    tokenizer_close(t);
}
END_TEST

START_TEST(limits_leave_the_list_alone) {
    struct tokenizer *t = open_text("{" MODEL "}");
    struct token_list l = {0};
    struct why why = {""};
    ck_assert_int_eq(tokenizer_encode(t, "abc", 3, true, true, 1, &l, &why), 0);
    ck_assert_int_eq(tokenizer_encode(t, "abx", 3, true, true, 1, &l, &why), ERR_TOO_LARGE);
    ck_assert(l.len == 1 && l.ids[0] == 5 && strstr(why.text, "more than 1 tokens"));
    ck_assert_int_eq(tokenizer_encode(t, "abx", 3, true, true, 2, &l, &why), 0); /* the limit is of this call */
    ck_assert_int_eq(l.len, 3);
    ck_assert_int_eq(tokenizer_encode(t, "a", 1, true, true, 0, &l, &why), ERR_TOO_LARGE);
    ck_assert_int_eq(tokenizer_encode(t, "a", 1, true, true, -5, &l, &why), ERR_TOO_LARGE);
    ck_assert_int_eq(tokenizer_encode(t, "", 0, true, true, 0, &l, &why), 0);
    token_list_clear(&l);
    tokenizer_close(t);
}
END_TEST

/* ---- nonsense ---- */

static const struct {
    const char *json, *what;
} refused[] = {
    {"", "line"},
    {"[]", "not an object"},
    {"{", "line"},
    {"{}x", "line"},
    {"{\"model\":1}", "'model' is missing"},
    {"{\"model\":{\"type\":\"Odd\"}}", "'Odd' is not known"},
    {"{\"model\":{\"type\":\"WordPiece\"}}", "'vocab' must be"},
    {"{\"model\":{\"type\":\"Unigram\"}}", "list of [text, score]"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", "must be [text, score]"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":1}}", "'unk_id' must be"},
    {"{\"model\":{\"type\":\"BPE\"}}", "'vocab' must be"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "'vocab' is empty"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "'merges' must be"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", "duplicate"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "share id 0"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "an integer from 0"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2097152},\"merges\":[]}}", "an integer from 0"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0.5},\"merges\":[]}}", "an integer from 0"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a q\"]}}", "'q', which is not in the vocabulary"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", "not in the vocabulary"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}}", "two tokens with one space"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "must be \"a b\""},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\":1},\"merges\":[[\"\",\"a\"]]}}", "not in the vocabulary"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\",[\"a\",\"a\"]]}}", "mix"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"dropout\":0.1}}", "'dropout'"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"fuse_unk\":1}}", "'fuse_unk' is a number"},
    {"{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAA\"}," MODEL "}", "not base64"},
    {"{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"CAAAAA==\"}," MODEL "}", "cut short"},
    {"{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\"}," MODEL "}", "Prepend of nothing"},
    {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{},\"content\":\"\"}," MODEL "}", "either String or Regex"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a)\\\\1\"},\"behavior\":\"Isolated\"}," MODEL "}",
     "at offset 3"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Odd\"}," MODEL "}",
     "'Odd' is not known"},
    {"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"__\"}," MODEL "}", "one character"},
    {"{\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}," MODEL "}", "'UnicodeScripts' is not known"},
    {"{\"decoder\":{\"type\":\"Odd\"}," MODEL "}", "'Odd' is not known"},
    {"{\"decoder\":{\"type\":\"BPEDecoder\",\"suffix\":\"\"}," MODEL "}", "'suffix' is empty"},
    {"{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}]}," MODEL "}",
     "behind Fuse"},
    {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}," MODEL "}", "sequence A once"},
    {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"q\"}},{\"Sequence\":{\"id\":"
     "\"A\"}}]}," MODEL "}",
     "'q' has no ids"},
    {"{\"added_tokens\":{}," MODEL "}", "must be a list"},
    {"{\"added_tokens\":[" ADDED("ab", "") "]," MODEL "}", "loads as 4"},
    {"{\"added_tokens\":[{\"id\":9,\"content\":\"<s>\"}]," MODEL "}", "loads as 8"},
    {"{\"added_tokens\":[{\"id\":7,\"content\":\"x\"},{\"id\":7,\"content\":\"x\"}]," MODEL "}", "listed twice"},
};

START_TEST(nonsense_is_refused) {
    struct tokenizer *t = NULL;
    struct why why = {""};
    ck_assert_int_lt(tokenizer_parse(refused[_i].json, strlen(refused[_i].json), &t, &why), 0);
    ck_assert_msg(!t && strstr(why.text, refused[_i].what), "%s: %s", refused[_i].json, why.text);
}
END_TEST

START_TEST(sequences_nest_so_deep_and_no_deeper) {
    static const char *const lists[][2] = {{"normalizer", "normalizers"},
                                           {"pre_tokenizer", "pretokenizers"},
                                           {"decoder", "decoders"},
                                           {"post_processor", "processors"}};
    for (int depth = 7; depth <= 8; depth++) {
        char json[2000];
        size_t n = (size_t)snprintf(json, sizeof json, "{" MODEL ",\"%s\":", lists[_i][0]);
        for (int i = 0; i < depth; i++)
            n += (size_t)snprintf(json + n, sizeof json - n, "{\"type\":\"Sequence\",\"%s\":[", lists[_i][1]);
        n += (size_t)snprintf(json + n, sizeof json - n, "{\"type\":\"ByteLevel\"}");
        for (int i = 0; i < depth; i++) n += (size_t)snprintf(json + n, sizeof json - n, "]}");
        snprintf(json + n, sizeof json - n, "}");
        struct tokenizer *t = NULL;
        struct why why = {""};
        int rc = tokenizer_parse(json, strlen(json), &t, &why);
        ck_assert_msg(depth < 8 ? rc == 0 : rc == ERR_INVALID && strstr(why.text, "nest deeper"), "%s", why.text);
        tokenizer_close(t);
    }
}
END_TEST

START_TEST(truncated_files_are_refused) {
    static const char json[] = "{\"added_tokens\":[" ADDED("<s>", "") "],\"normalizer\":{\"type\":\"NFC\"}," MODEL "}";
    for (size_t len = 0; len < sizeof json - 1; len++) {
        struct tokenizer *t = NULL;
        struct why why = {""};
        ck_assert_int_lt(tokenizer_parse(json, len, &t, &why), 0);
        ck_assert(strlen(why.text) > 0);
    }
}
END_TEST

/* ---- the stream ---- */

static const char *const names[] = {"tokenizer/llama2.tokenizer.json", "tokenizer/llama3.tokenizer.json",
                                    "tokenizer/neox.tokenizer.json", "tokenizer/qwen2.tokenizer.json",
                                    "tokenizer/smollm2.tokenizer.json"};
enum { NAMES = sizeof names / sizeof *names };

/* Random ids are mostly broken characters. Each piece must be whole UTF-8, all together the text at once. */
START_TEST(streamed_pieces_are_whole_and_add_up) {
    struct tokenizer *t = open_fixture(names[_i]);
    uint64_t seed = 1;
    for (int round = 0; round < 400; round++) {
        int32_t ids[24];
        struct text_buf whole = {0}, all = {0}, piece = {0};
        struct detokenizer *d;
        bool skip = round & 1;
        for (int i = 0; i < 24; i++) ids[i] = (int32_t)(hash_u64(seed++) % (uint64_t)(tokenizer_vocab(t) + 2)) - 1;
        ck_assert_int_eq(tokenizer_decode(t, ids, 24, skip, &whole), 0);
        ck_assert_int_eq(detokenizer_new(t, skip, &d), 0);
        for (int i = 0; i <= 24; i++) {
            piece.len = 0;
            ck_assert_int_eq(i < 24 ? detokenizer_push(d, ids[i], &piece) : detokenizer_flush(d, &piece), 0);
            ck_assert_uint_eq(utf8_valid_prefix(piece.data, piece.len), piece.len);
            ck_assert_int_eq(text_buf_append(&all, piece.data, piece.len), 0);
        }
        ck_assert(all.len == whole.len && (!all.len || !memcmp(all.data, whole.data, all.len)));
        detokenizer_free(d);
        text_buf_clear(&whole);
        text_buf_clear(&all);
        text_buf_clear(&piece);
    }
    tokenizer_close(t);
}
END_TEST

/* Four bytes of an emoji come as one piece with the last. */
START_TEST(characters_are_held_back_until_whole) {
    struct tokenizer *t = open_fixture("tokenizer/qwen2.tokenizer.json");
    struct token_list l = {0};
    struct why why;
    struct detokenizer *d;
    struct text_buf piece = {0};
    ck_assert_int_eq(tokenizer_encode(t, "\U0001f9ff", 4, false, true, 9, &l, &why), 0);
    ck_assert_int_gt(l.len, 1);
    ck_assert_int_eq(detokenizer_new(t, true, &d), 0);
    for (int i = 0; i < l.len; i++) {
        ck_assert_uint_eq(piece.len, 0);
        ck_assert_int_eq(detokenizer_push(d, l.ids[i], &piece), 0);
    }
    ck_assert_str_eq(piece.data, "\U0001f9ff");
    detokenizer_free(d);
    text_buf_clear(&piece);
    token_list_clear(&l);
    tokenizer_close(t);
}
END_TEST

/* ---- size and threads ---- */

static void fill(char *s, size_t n, int kind) {
    uint64_t seed = 7;
    for (size_t i = 0; i < n; i++)
        s[i] = kind == 0 ? 'a' : kind == 1 ? (char)('a' + hash_u64(seed++) % 26) : kind == 2 ? ' ' : (char)hash_u64(seed++);
}

/* Ten megabytes as one word, as random letters, as blanks, as garbage: with a limit, where little is done, and a part in
 * full. */
START_TEST(huge_words_are_not_quadratic) {
    enum { SIZE = 10 << 20, PART = 2 << 20, PATIENCE_US = 60000000 }; /* a second of one core; quadratic would take hours */
    struct tokenizer *t = open_fixture("tokenizer/smollm2.tokenizer.json");
    char *s = malloc(SIZE);
    struct token_list l = {0};
    struct why why;
    ck_assert_ptr_nonnull(s);
    fill(s, SIZE, _i);
    int64_t start = clk_now_us();
    ck_assert_int_eq(tokenizer_encode(t, s, SIZE, false, true, 4096, &l, &why), ERR_TOO_LARGE);
    ck_assert_int_eq(tokenizer_encode(t, s, PART, false, true, 1 << 30, &l, &why), 0);
    ck_assert_int_lt(clk_now_us() - start, PATIENCE_US);
    ck_assert_int_gt(l.len, PART / 1000);
    token_list_clear(&l);
    free(s);
    tokenizer_close(t);
}
END_TEST

struct worker {
    pthread_t thread;
    const struct tokenizer *t;
    struct text_buf text;
    struct token_list ids;
    int rc;
};

static void *encode_thread(void *arg) {
    struct worker *w = arg;
    struct why why;
    for (int i = 0; i < 5 && w->rc == 0; i++) {
        w->ids.len = 0;
        w->rc = tokenizer_encode(w->t, w->text.data, w->text.len, true, true, 1 << 24, &w->ids, &why);
    }
    return NULL;
}

START_TEST(threads_share_a_tokenizer) {
    enum { THREADS = 4 };
    struct tokenizer *t = open_fixture(names[_i]);
    struct worker w[THREADS];
    memset(w, 0, sizeof w);
    for (int i = 0; i < THREADS; i++) {
        w[i].t = t;
        for (int k = 0; k < 2000; k++)
            text_buf_append(&w[i].text, "It's  12,345 \xc3\xa9t\xc3\xa9s <|im_start|> \xe4\xb8\xad\xe6\x96\x87\n", 37);
        ck_assert_int_eq(pthread_create(&w[i].thread, NULL, encode_thread, &w[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(w[i].thread, NULL);
        ck_assert(w[i].rc == 0 && w[i].ids.len == w[0].ids.len);
        ck_assert(!memcmp(w[i].ids.ids, w[0].ids.ids, (size_t)w[0].ids.len * sizeof *w[0].ids.ids));
    }
    for (int i = 0; i < THREADS; i++) {
        text_buf_clear(&w[i].text);
        token_list_clear(&w[i].ids);
    }
    tokenizer_close(t);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("tokenizer");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 100);
    tcase_add_loop_test(t, encodes, 0, sizeof cases / sizeof *cases);
    tcase_add_test(t, nul_is_a_character);
    tcase_add_test(t, special_tokens_are_optional);
    tcase_add_test(t, limits_leave_the_list_alone);
    tcase_add_loop_test(t, nonsense_is_refused, 0, sizeof refused / sizeof *refused);
    tcase_add_loop_test(t, sequences_nest_so_deep_and_no_deeper, 0, 4);
    tcase_add_test(t, truncated_files_are_refused);
    tcase_add_loop_test(t, streamed_pieces_are_whole_and_add_up, 0, NAMES);
    tcase_add_test(t, characters_are_held_back_until_whole);
    tcase_add_loop_test(t, huge_words_are_not_quadratic, 0, 4);
    tcase_add_loop_test(t, threads_share_a_tokenizer, 0, NAMES);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
