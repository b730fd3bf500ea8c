/* test_status.c - every code has a name, a text and a scope; explanations are cut, never overrun; lists stay linked. */
#include <string.h>

#include "base/list.h"
#include "base/log.h"
#include "base/status.h"

#include "tests/unit/run.h"

#undef fail /* its macro; ours is meant */

START_TEST(every_code) {
    for (int code = STATUS_FIRST + 1; code < STATUS_END; code++) {
        ck_assert_str_ne(status_name(code), "UNKNOWN");
        ck_assert_uint_gt(strlen(status_text(code)), 3);
        for (int other = STATUS_FIRST + 1; other < code; other++) ck_assert_str_ne(status_name(code), status_name(other));
    }
    ck_assert_int_lt(STATUS_END, 0);
    ck_assert_str_eq(status_name(0), "OK");
    ck_assert_str_eq(status_name(7), "OK");
    ck_assert_str_eq(status_name(ERR_INVALID), "INVALID");
    ck_assert_str_eq(status_name(ERR_NOMEM), "NOMEM");
    const int unknown[] = {-1, STATUS_FIRST, STATUS_FIRST - 1, STATUS_END, -2147483647 - 1};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) ck_assert_str_eq(status_name(unknown[i]), "UNKNOWN");
    ck_assert(status_scope(ERR_INVALID) == SCOPE_REQUEST && status_scope(ERR_DEADLINE) == SCOPE_SEQUENCE);
    ck_assert(status_scope(ERR_GONE) == SCOPE_PEER && status_scope(ERR_IO) == SCOPE_PROCESS &&
              status_scope(-1) == SCOPE_PROCESS);
}
END_TEST

START_TEST(explanations) {
    struct why why;
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    ck_assert_int_eq(fail(&why, ERR_IO, "cannot read %s", "a.txt"), ERR_IO);
    ck_assert_str_eq(why.text, "cannot read a.txt");
    ck_assert_int_eq(fail_in(&why, ERR_INVALID, "line %d", 7), ERR_INVALID);
    ck_assert_int_eq(fail_in(&why, ERR_INVALID, "conf"), ERR_INVALID);
    ck_assert_str_eq(why.text, "conf: line 7: cannot read a.txt");
    fail(&why, ERR_IO, "%s", big);
    ck_assert_uint_eq(strlen(why.text), sizeof why.text - 1);
    fail_in(&why, ERR_IO, "front");
    ck_assert_uint_eq(strlen(why.text), sizeof why.text - 1);
    ck_assert_int_eq(strncmp(why.text, "front: xxx", 10), 0);
    fail_in(&why, ERR_IO, "%s", big);
    ck_assert_uint_eq(strlen(why.text), sizeof why.text - 1);
}
END_TEST

START_TEST(log_levels) {
    ck_assert_int_eq(log_level_parse("error"), LOG_ERROR);
    ck_assert_int_eq(log_level_parse("debug"), LOG_DEBUG);
    ck_assert_int_eq(log_level_parse("loud"), ERR_INVALID);
    ck_assert_int_eq(log_level_parse(""), ERR_INVALID);
}
END_TEST

START_TEST(lists) {
    struct node {
        int n;
        struct list at;
    } nodes[5];
    struct list head, *pos, *next;
    int sum = 0;
    list_init(&head);
    ck_assert(list_empty(&head));
    for (int i = 0; i < 5; i++) {
        nodes[i].n = i;
        list_append(&head, &nodes[i].at);
    }
    list_for(pos, next, &head) {
        struct node *node = list_entry(pos, struct node, at);
        if (node->n % 2) list_remove(&node->at);
        sum = sum * 10 + node->n;
    }
    ck_assert_int_eq(sum, 1234);
    list_remove(&nodes[1].at); /* a second time: harmless */
    list_insert_before(&nodes[2].at, &nodes[3].at);
    sum = 0;
    list_for(pos, next, &head) sum = sum * 10 + list_entry(pos, struct node, at)->n;
    ck_assert_int_eq(sum, 324); /* 0, 3, 2, 4 */
}
END_TEST

int main(void) {
    Suite *suite = suite_create("status");
    TCase *t = tcase_create("all");
    tcase_add_test(t, every_code);
    tcase_add_test(t, explanations);
    tcase_add_test(t, log_levels);
    tcase_add_test(t, lists);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
