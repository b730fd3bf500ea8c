/* test_stream.c - text comes out whole and in time; stop strings end it exactly, wherever they begin and however they are cut.
 *
 * usage: test_stream DIR_WITH_TOKENIZER (byte level: every byte has an id) */
#include "base/log.h"
#include "coordinator/stream.h"

#include <string.h>

#include "tests/unit/run.h"

static struct tokenizer *tokenizer;
static struct stream *stream;
static struct why why;
static int taken; /* tokens, by take */

static struct text_slice slice(const char *s) { return (struct text_slice){s, strlen(s)}; }

static void open_stream(const char *a, const char *b) {
    struct text_slice stops[2] = {slice(a ? a : ""), slice(b ? b : "")};
    stream_free(stream);
    taken = 0;
    ck_assert_int_eq(stream_new(tokenizer, stops, (a != NULL) + (b != NULL), &stream), 0);
}
static void close_stream(void) {
    stream_free(stream);
    stream = NULL;
}

/* The id of every byte used here: those of a character that has no token of its own are its bytes'. */
static int32_t id_of[256];
static void learn(const char *text) {
    struct token_list l = {0};
    int n = (int)strlen(text);
    if (tokenizer_encode(tokenizer, text, (size_t)n, false, false, 16, &l, &why) < 0 || l.len != n)
        die("%s: %d ids", text, l.len);
    for (int i = 0; i < n; i++) id_of[(unsigned char)text[i]] = l.ids[i];
    token_list_clear(&l);
}
static void learn_all(void) {
    char one[2] = "";
    for (one[0] = 1; one[0] > 0 && one[0] < 127; one[0]++) learn(one);
    learn("\xe2\x82\xac");
    learn("\xf0\x9f\x98\x80");
}

/* One token per byte, so that everything is cut everywhere. The result of the last push. */
static int push_bytes(const char *text) {
    int rc = 0;
    for (; *text && !rc; text++) {
        struct step_out o = {.token = id_of[(unsigned char)*text], .logprob = -1};
        rc = stream_push(stream, &o);
    }
    return rc;
}
/* Takes what may go out and appends its text. */
static void take(char *text) {
    struct stream_piece p;
    while (stream_peek(stream, &p)) {
        ck_assert_int_eq((int)p.first, taken);
        taken += p.n;
        strncat(text, p.text ? p.text : "", p.text_len);
        stream_sent(stream, &p);
    }
}
static void expect(const char *want, bool stopped) {
    char text[512] = "";
    ck_assert_int_eq(stream_finish(stream) > 0, stopped);
    take(text);
    ck_assert_str_eq(text, want);
    ck_assert_uint_eq(stream_tokens(stream), (uint32_t)taken);
}

START_TEST(plain_text) {
    open_stream(NULL, NULL);
    ck_assert_int_eq(push_bytes("hello world"), 0);
    expect("hello world", false);
}
END_TEST

START_TEST(characters_are_whole) {
    char text[64] = "";
    open_stream(NULL, NULL);
    push_bytes("a\xe2\x82");
    take(text);
    ck_assert_str_eq(text, "a");
    ck_assert_int_eq(taken, 3); /* tokens do not wait for their text */
    push_bytes("\xac");
    take(text);
    ck_assert_str_eq(text, "a\xe2\x82\xac");
    push_bytes("\xf0\x9f");
    expect("\xef\xbf\xbd", false);
}
END_TEST

START_TEST(stops) {
    static const struct {
        const char *a, *b, *in, *out;
        bool stopped;
    } cases[] = {
        {"END", NULL, "one END two", "one ", true},
        {"END", NULL, "one EN two E", "one EN two E", false},
        {"END", NULL, "END", "", true},
        {"aab", NULL, "xaaab", "xa", true},
        {"abcd", "bc", "xabcd", "xa", true}, /* the one that is complete first wins */
        {"abcdef", "cd", "xabcx", "xabcx", false},
        {"\n\n", NULL, "a\nb\n\nc", "a\nb", true},
        {"\xe2\x82\xac", NULL, "10 \xe2\x82\xac", "10 ", true},
        {"x", NULL, "", "", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        open_stream(cases[i].a, cases[i].b);
        ck_assert_int_eq(push_bytes(cases[i].in), cases[i].stopped);
        expect(cases[i].out, cases[i].stopped);
    }
}
END_TEST

START_TEST(holds_back_no_more_than_needed) {
    char text[64] = "";
    open_stream("STOP", "TOPS");
    push_bytes("go ST");
    take(text);
    ck_assert_str_eq(text, "go ");
    push_bytes("x");
    take(text);
    ck_assert_str_eq(text, "go STx");
    push_bytes("STO");
    take(text);
    ck_assert_str_eq(text, "go STx");
    expect("STO", false);
}
END_TEST

START_TEST(
    stop_after_text_was_kept) { /* a client without credits: text waits, and a later stop must not be sought in it again */
    open_stream("bb", NULL);
    ck_assert_int_eq(push_bytes("ab"), 0);
    ck_assert_int_eq(push_bytes("cab"), 0);
    ck_assert_int_eq(push_bytes("b"), 1);
    expect("abca", true);
}
END_TEST

START_TEST(stop_within_the_flush) { /* an unfinished character becomes U+FFFD only at the end */
    open_stream("\xef\xbf\xbd", NULL);
    ck_assert_int_eq(push_bytes("a\xe2\x82"), 0);
    expect("a", true);
}
END_TEST

START_TEST(alternatives_stay_with_their_tokens) {
    struct stream_piece p;
    close_stream();
    ck_assert_int_eq(stream_new(NULL, NULL, 0, &stream), 0);
    for (int i = 0; i < 600; i++) {
        struct step_out o = {.token = i, .n_top = i % 3};
        for (int j = 0; j < o.n_top; j++) o.top[j] = (struct top_token){i * 10 + j, 0};
        ck_assert_int_eq(stream_push(stream, &o), 0);
    }
    int seen = 0;
    while (stream_peek(stream, &p)) {
        ck_assert_int_le(p.n, STREAM_PIECE_TOKENS);
        for (int i = 0; i < p.n; i++, seen++) {
            ck_assert_int_eq(p.token[i].id, seen);
            ck_assert_int_eq(p.token[i].n_top, seen % 3);
            for (int j = 0; j < p.token[i].n_top; j++) ck_assert_int_eq(p.token[i].top[j].id, seen * 10 + j);
        }
        stream_sent(stream, &p);
    }
    ck_assert_int_eq(seen, 600);
    ck_assert_int_eq(stream_finish(stream), 0);
}
END_TEST

int main(int argc, char **argv) {
    const TTest *const tests[] = {plain_text,
                                  characters_are_whole,
                                  stops,
                                  holds_back_no_more_than_needed,
                                  stop_after_text_was_kept,
                                  stop_within_the_flush,
                                  alternatives_stay_with_their_tokens};
    if (argc < 2 || tokenizer_open(argv[1], &tokenizer, &why) < 0) return 2;
    learn_all();
    int rc = run_tests("stream", tests, (int)(sizeof tests / sizeof *tests), NULL, close_stream);
    tokenizer_close(tokenizer);
    return rc;
}
