/* test_seq.c - the table of local sequences, and that a plan which contradicts it is refused with the numbers. */
#include "worker/seq.h"

#include <string.h>

#include "tests/unit/run.h"

static struct seq_table table;
static struct why why;

static void open_table(void) {
    struct worker_setup setup = {.max_seqs = 3, .max_context = 40, .page_tokens = 16, .kv_pages = 5};
    ck_assert_int_eq(seq_table_init(&table, &setup, &why), 0);
}
static void close_table(void) { seq_table_clear(&table); }

static const int32_t ids[41] = {1, 2, 3, 4, 5}, stop_ids[1] = {9};
static struct plan_start start(uint64_t id, int n) {
    return (struct plan_start){
        .seq = id, .ids = ids, .n_ids = n, .prompt_tokens = n, .max_tokens = 2, .stop_ids = stop_ids, .n_stop_ids = 1};
}

START_TEST(start_find_drop) {
    struct plan_start s = start(7, 5);
    ck_assert_int_eq(seq_start(&table, &s, &why), 0);
    struct seq *q = seq_find(&table, 7);
    ck_assert_ptr_nonnull(q);
    ck_assert_int_eq(q->n_ids, 5);
    ck_assert_int_eq(q->ids[4], 5);
    ck_assert_ptr_null(seq_find(&table, 8));
    ck_assert_ptr_null(seq_find(&table, 0));
    seq_drop(&table, 7);
    seq_drop(&table, 7);
    ck_assert_ptr_null(seq_find(&table, 7));
    ck_assert_int_eq(table.n, 0);
}
END_TEST

START_TEST(many_lives) { /* removed marks must not fill the table up */
    for (uint64_t i = 1; i < 5000; i++) {
        struct plan_start s = start(i, 3);
        ck_assert_int_eq(seq_start(&table, &s, &why), 0);
        if (i > 2) seq_drop(&table, i - 2);
        ck_assert_ptr_nonnull(seq_find(&table, i));
    }
}
END_TEST

START_TEST(refusals) {
    struct plan_start s = start(1, 5), none = start(2, 0), big = start(3, 41), zero = start(0, 5);
    ck_assert_int_eq(seq_start(&table, &s, &why), 0);
    ck_assert_int_eq(seq_start(&table, &s, &why), ERR_PROTOCOL);
    ck_assert_ptr_nonnull(strstr(why.text, "twice"));
    ck_assert_int_eq(seq_start(&table, &none, &why), ERR_PROTOCOL);
    ck_assert_int_eq(seq_start(&table, &big, &why), ERR_PROTOCOL);
    ck_assert_ptr_nonnull(strstr(why.text, "41"));
    ck_assert_int_eq(seq_start(&table, &zero, &why), ERR_PROTOCOL);
    struct seq *q = seq_find(&table, 1);
    ck_assert_int_eq(seq_add_pages(&table, q, (const uint32_t[]){4, 5}, 2, &why), ERR_PROTOCOL);
    ck_assert_ptr_nonnull(strstr(why.text, "page 5 of 5"));
    ck_assert_int_eq(seq_add_pages(&table, q, (const uint32_t[]){0, 1, 2}, 3, &why), ERR_PROTOCOL);
    for (uint64_t i = 2; i < 4; i++) {
        struct plan_start more = start(i, 1);
        ck_assert_int_eq(seq_start(&table, &more, &why), 0);
    }
    struct plan_start surplus = start(4, 1);
    ck_assert_int_eq(seq_start(&table, &surplus, &why), ERR_PROTOCOL);
}
END_TEST

START_TEST(ends) {
    struct plan_start s = start(1, 5), t = start(2, 5);
    seq_start(&table, &s, &why);
    seq_start(&table, &t, &why);
    struct seq *a = seq_find(&table, 1), *b = seq_find(&table, 2);
    seq_append(a, 9);
    ck_assert_int_eq(a->finish, SEQ_STOP);
    seq_append(b, 8);
    ck_assert_int_eq(b->finish, SEQ_RUNNING);
    seq_append(b, 8);
    ck_assert_int_eq(b->finish, SEQ_LENGTH);
}
END_TEST

START_TEST(ends_after_preemption) { /* three committed tokens come back as known ids: only one more may be generated */
    struct plan_start s = {.seq = 1, .ids = ids, .n_ids = 5, .prompt_tokens = 2, .max_tokens = 4};
    seq_start(&table, &s, &why);
    struct seq *a = seq_find(&table, 1);
    seq_append(a, 8);
    ck_assert_int_eq(a->finish, SEQ_LENGTH);
}
END_TEST

int main(void) {
    Suite *s = suite_create("seq");
    TCase *t = tcase_create("seq");
    tcase_add_checked_fixture(t, open_table, close_table);
    tcase_add_test(t, start_find_drop);
    tcase_add_test(t, many_lives);
    tcase_add_test(t, refusals);
    tcase_add_test(t, ends);
    tcase_add_test(t, ends_after_preemption);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
