/* test_admit.c - every field of a request at and beyond its limits, with the reason a client would read. */
#include "coordinator/admit.h"

#include <math.h>
#include <string.h>

#include "tests/unit/run.h"

static const struct admit_limits limits = {.vocab = 100, .max_context = 50, .has_tokenizer = true, .has_template = true};
static struct why why;
static struct text_slice text(const char *s) { return (struct text_slice){s, strlen(s)}; }
static struct generate_request plain(void) { return (struct generate_request){.input = INPUT_TEXT, .prompt = text("hello")}; }

static void refused(const struct generate_request *r, int code, const char *says) {
    int rc = admit_generate(r, &limits, &why);
    ck_assert_msg(rc == code, "%s: got %s", says, status_name(rc));
    ck_assert_msg(strstr(why.text, says) != NULL, "wanted '%s' in '%s'", says, why.text);
}

START_TEST(inputs) {
    int32_t ids[51] = {0};
    struct generate_request r = plain();
    ck_assert_int_eq(admit_generate(&r, &limits, &why), 0);
    r.prompt = text("");
    refused(&r, ERR_INVALID, "the prompt is empty");
    r.prompt = text("a\xff");
    refused(&r, ERR_INVALID, "not UTF-8: byte 0xff at offset 1");
    r = (struct generate_request){0};
    refused(&r, ERR_INVALID, "no prompt, ids or chat");
    r = (struct generate_request){.input = INPUT_IDS, .ids = ids, .n_ids = 50};
    ck_assert_int_eq(admit_generate(&r, &limits, &why), 0);
    r.n_ids = 51;
    refused(&r, ERR_TOO_LARGE, "the prompt has 51 tokens; this cluster's context is 50");
    r.n_ids = 0;
    refused(&r, ERR_INVALID, "the prompt is empty");
    r.n_ids = 2;
    ids[1] = 100;
    refused(&r, ERR_INVALID, "prompt id 1 is 100; the vocabulary has ids 0 to 99");
    ids[1] = -1;
    refused(&r, ERR_INVALID, "prompt id 1 is -1");
}
END_TEST

START_TEST(chats) {
    struct chat_turn turns[2] = {{text("user"), text("hi")}, {text("assistant"), text("")}};
    struct generate_request r = {.input = INPUT_CHAT, .turns = turns, .n_turns = 2};
    ck_assert_int_eq(admit_generate(&r, &limits, &why), 0);
    r.n_turns = 0;
    refused(&r, ERR_INVALID, "no messages");
    r.n_turns = ADMIT_TURNS + 1;
    refused(&r, ERR_TOO_LARGE, "4097 messages");
    r.n_turns = 2;
    turns[1].content = (struct text_slice){"a\0b", 3};
    refused(&r, ERR_INVALID, "message 1 contains a NUL byte");
    turns[1].content = text("\xc3");
    refused(&r, ERR_INVALID, "content is not UTF-8");
    turns[0].role = text("");
    refused(&r, ERR_INVALID, "role of 0 bytes");
    struct admit_limits bare = limits;
    bare.has_template = false;
    ck_assert_int_eq(admit_generate(&r, &bare, &why), ERR_UNSUPPORTED);
    bare.has_tokenizer = false;
    r = plain();
    ck_assert_int_eq(admit_generate(&r, &bare, &why), ERR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(why.text, "ids only"));
}
END_TEST

START_TEST(sampling) {
    struct generate_request r = plain();
    static const float bad[] = {-0.1f, NAN, INFINITY};
    for (int i = 0; i < 3; i++) {
        r.sampling = (struct sampling){.temperature = bad[i]};
        refused(&r, ERR_INVALID, "temperature");
    }
    static const float out[] = {-0.1f, 1.1f, NAN};
    for (int i = 0; i < 3; i++) {
        r.sampling = (struct sampling){.top_p = out[i]};
        refused(&r, ERR_INVALID, "top_p");
        r.sampling = (struct sampling){.min_p = out[i]};
        refused(&r, ERR_INVALID, "min_p");
    }
    r.sampling = (struct sampling){.top_k = 1u << 31};
    refused(&r, ERR_INVALID, "top_k");
    r.sampling = (struct sampling){.logprobs = 22};
    refused(&r, ERR_INVALID, "logprobs 21: at most 20");
    r.sampling = (struct sampling){.temperature = 2, .top_p = 1, .min_p = 1, .top_k = 5, .logprobs = 21};
    ck_assert_int_eq(admit_generate(&r, &limits, &why), 0);
    ck_assert_float_eq(admit_sampling(&(struct sampling){.top_p = 0}).top_p, 1);
    ck_assert_float_eq(admit_sampling(&(struct sampling){.top_p = 0.5f}).top_p, 0.5f);
}
END_TEST

START_TEST(ends) {
    char long_text[300];
    memset(long_text, 'x', sizeof long_text);
    struct text_slice stops[17];
    for (int i = 0; i < 17; i++) stops[i] = (struct text_slice){long_text, 256};
    int32_t ids[17] = {0};
    struct generate_request r = plain();
    r.stop = stops, r.n_stop = 16, r.stop_ids = ids, r.n_stop_ids = 16;
    ck_assert_int_eq(admit_generate(&r, &limits, &why), 0);
    r.n_stop = 17;
    refused(&r, ERR_INVALID, "17 stop strings");
    r.n_stop = 1;
    stops[0].len = 257;
    refused(&r, ERR_INVALID, "stop string 0 has 257 bytes");
    stops[0].len = 0;
    refused(&r, ERR_INVALID, "stop string 0 has 0 bytes");
    stops[0] = text("\xff");
    refused(&r, ERR_INVALID, "a stop string is not UTF-8");
    r.n_stop = 0;
    r.n_stop_ids = 17;
    refused(&r, ERR_INVALID, "17 stop ids");
    r.n_stop_ids = 1;
    ids[0] = 100;
    refused(&r, ERR_INVALID, "stop id 0 is 100");
    r = plain();
    r.priority = 1001;
    refused(&r, ERR_INVALID, "priority 1001");
    r = plain();
    r.tag = (struct text_slice){long_text, 65};
    refused(&r, ERR_INVALID, "tag and tenant");
}
END_TEST

START_TEST(tokenize) {
    struct tokenize_request t = {.input = INPUT_TEXT, .text = text("")};
    ck_assert_int_eq(admit_tokenize(&t, &limits, &why), ERR_INVALID);
    t.text = text("x");
    ck_assert_int_eq(admit_tokenize(&t, &limits, &why), 0);
    t = (struct tokenize_request){.input = INPUT_CHAT};
    ck_assert_int_eq(admit_tokenize(&t, &limits, &why), ERR_INVALID);
}
END_TEST

RUN("admit", NULL, NULL, inputs, chats, sampling, ends, tokenize)
