/* test_prepare.c - the tokeniser's thread: what a prompt and a chat become, how many may be inside, and leaving with work
 * undone.
 *
 * usage: test_prepare DIR (a checkpoint whose tokenizer adds a first token and whose chat template writes it) */
#include "coordinator/prepare.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/run.h"

enum { LIMIT = 1000 }; /* bytes inside */
static struct tokenizer *tokenizer;
static struct chat_template *chat;
static struct prepare *prepare;
static struct why why;

static void open_prepare(void) { ck_assert_int_eq(prepare_open(tokenizer, chat, 3, LIMIT, &prepare, &why), 0); }
static void close_prepare(void) { prepare_close(prepare); }
static struct text_slice slice(const char *s) { return (struct text_slice){s, strlen(s)}; }

static struct prepare_job *wait_one(void) {
    struct prepare_job *j;
    while (!(j = prepare_take(prepare))) {
        struct pollfd fd = {.fd = prepare_fd(prepare), .events = POLLIN};
        ck_assert_int_eq(poll(&fd, 1, 30000), 1);
        prepare_clear(prepare);
    }
    return j;
}
static int count(const struct prepare_job *j, int32_t id) {
    int n = 0;
    for (int i = 0; i < j->ids.len; i++) n += j->ids.ids[i] == id;
    return n;
}

START_TEST(one_first_token) { /* from the post-processor, or from the template, never from both */
    int32_t first = tokenizer_id(tokenizer, "<|begin|>");
    int owner;
    ck_assert_int_ge(first, 0);
    ck_assert(prepare_put(prepare, prepare_job_text(slice("hello"), 100, &owner)));
    struct prepare_job *j = wait_one();
    ck_assert_int_eq(j->rc, 0);
    ck_assert_ptr_eq(j->owner, &owner);
    ck_assert_int_eq(j->ids.ids[0], first);
    ck_assert_int_eq(count(j, first), 1);
    prepare_job_free(j);
    struct chat_turn turns[2] = {{slice("user"), slice("hello")}, {slice("assistant"), slice("")}};
    ck_assert(prepare_put(prepare, prepare_job_chat(turns, 2, 100, NULL)));
    j = wait_one();
    ck_assert_msg(j->rc == 0, "%s", j->why.text);
    ck_assert_int_eq(j->ids.ids[0], first);
    ck_assert_int_eq(count(j, first), 1);
    ck_assert_int_eq(count(j, tokenizer_id(tokenizer, "<|end|>")), 1); /* special tokens of the template are tokens */
    prepare_job_free(j);
}
END_TEST

START_TEST(too_long) {
    struct chat_turn turn = {slice("user"), slice("hello hello hello")};
    ck_assert(prepare_put(prepare, prepare_job_text(slice("hello hello hello"), 5, NULL)));
    ck_assert(prepare_put(prepare, prepare_job_chat(&turn, 1, 5, NULL)));
    ck_assert(prepare_put(prepare, prepare_job_text(slice("hello hello hello"), 0, NULL))); /* nobody counts so far */
    for (int i = 0; i < 3; i++) {
        struct prepare_job *j = wait_one();
        int counted = 0, context = -1;
        ck_assert_int_eq(j->rc, ERR_TOO_LARGE);
        bool both = sscanf(j->why.text, "the prompt has %d tokens; this cluster's context is %d", &counted, &context) == 2;
        if (i == 2) ck_assert_ptr_nonnull(strstr(j->why.text, "more than 0 tokens"));
        else ck_assert_msg(both && counted > 5 && context == 5, "%s", j->why.text);
        prepare_job_free(j);
    }
}
END_TEST

START_TEST(bounded_and_in_order) {
    int owners[5];
    struct prepare_job *fourth = prepare_job_text(slice("d"), 100, &owners[3]);
    for (int i = 0; i < 3; i++) ck_assert(prepare_put(prepare, prepare_job_text(slice("x"), 100, &owners[i])));
    ck_assert(!prepare_put(prepare, fourth)); /* finished but not taken counts too: there is room in both rings */
    for (int i = 0; i < 3; i++) {
        struct prepare_job *j = wait_one();
        ck_assert_ptr_eq(j->owner, &owners[i]);
        prepare_job_free(j);
    }
    ck_assert(prepare_put(prepare, fourth));
    prepare_job_free(wait_one());
}
END_TEST

START_TEST(bounded_in_bytes) { /* a queue of the largest prompts must not be the largest prompt times the queue */
    char text[LIMIT + 1];
    memset(text, 'x', sizeof text);
    struct chat_turn turn = {slice("user"), {text, 600}};
    struct prepare_job *second = prepare_job_chat(&turn, 1, 5, NULL);
    ck_assert(prepare_put(prepare, prepare_job_text((struct text_slice){text, 600}, 5, NULL)));
    ck_assert(!prepare_put(prepare, second));
    ck_assert(prepare_put(prepare, prepare_job_text((struct text_slice){text, 300}, 5, NULL)));
    for (int i = 0; i < 2; i++) prepare_job_free(wait_one());
    ck_assert(prepare_put(prepare, second));
    prepare_job_free(wait_one());
    ck_assert(prepare_put(prepare, prepare_job_text((struct text_slice){text, LIMIT + 1}, 5, NULL))); /* alone it may be more */
    prepare_job_free(wait_one());
}
END_TEST

START_TEST(leaves_with_work_undone) {
    for (int i = 0; i < 3; i++) ck_assert(prepare_put(prepare, prepare_job_text(slice("x"), 100, NULL)));
}
END_TEST

int main(int argc, char **argv) {
    const TTest *const tests[] = {one_first_token, too_long, bounded_and_in_order, bounded_in_bytes, leaves_with_work_undone};
    if (argc < 2 || tokenizer_open(argv[1], &tokenizer, &why) < 0 || chat_template_open(argv[1], &chat, &why) < 0) return 2;
    int rc = run_tests("prepare", tests, (int)(sizeof tests / sizeof *tests), open_prepare, close_prepare);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
    return rc;
}
