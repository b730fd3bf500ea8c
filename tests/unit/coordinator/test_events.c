/* test_events.c - the ring of events: in order, bounded, repeated ones counted. */
#include "coordinator/events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/run.h"

static struct events *es;
static void set_up(void) { es = calloc(1, sizeof *es); }
static void tear_down(void) { free(es); }

__attribute__((format(printf, 4, 5))) static struct event *add(int64_t at, enum event_kind kind, int rank, const char *fmt,
                                                               ...) {
    va_list ap;
    va_start(ap, fmt);
    struct event *e = events_add(es, at, kind, rank, fmt, ap);
    va_end(ap);
    return e;
}

START_TEST(in_order) {
    ck_assert_ptr_null(events_after(es, 0));
    event_figure(add(7, EVENT_WORKER_DEAD, 2, "gone"), "silent_us", 500);
    add(8, EVENT_EPOCH_BEGUN, -1, "epoch %d", 2);
    const struct event *e = events_after(es, 0);
    ck_assert(e->number == 1 && e->unix_us == 7 && e->rank == 2 && e->times == 1 && e->n_figures == 1);
    ck_assert_str_eq(e->text, "gone");
    ck_assert_str_eq(event_kind_name(e->kind), "worker-dead");
    e = events_after(es, 1);
    ck_assert(e->number == 2 && e->n_figures == 0);
    ck_assert_str_eq(e->text, "epoch 2");
    ck_assert_ptr_null(events_after(es, 2));
    ck_assert_ptr_null(events_after(es, UINT64_MAX)); /* as a client may ask */
}
END_TEST

START_TEST(the_oldest_go) {
    for (int i = 1; i <= 2 * EVENTS_KEPT + 3; i++) add(i, EVENT_STATE, -1, "%d", i);
    uint64_t first = EVENTS_KEPT + 4;
    ck_assert_uint_eq(events_after(es, 0)->number, first);
    ck_assert_uint_eq(events_after(es, first - 1)->number, first);
    uint64_t at = 0, n = 0;
    for (const struct event *e; (e = events_after(es, at)); at = e->number, n++) {
        char text[32];
        snprintf(text, sizeof text, "%d", (int)e->number);
        ck_assert_str_eq(e->text, text);
    }
    ck_assert_uint_eq(n, EVENTS_KEPT);
}
END_TEST

START_TEST(the_same_again) {
    for (int i = 0; i < 5000; i++) event_figure(add(i, EVENT_WORKER_REFUSED, 3, "wrong model"), "tries", i);
    add(1, EVENT_WORKER_REFUSED, 4, "wrong model");
    add(1, EVENT_WORKER_REFUSED, 3, "wrong model");
    const struct event *e = events_after(es, 0);
    ck_assert(e->times == 5000 && e->unix_us == 0 && e->n_figures == 1 && e->figure[0].value == 4999);
    ck_assert_uint_eq(es->added, 3);
}
END_TEST

START_TEST(bounds) {
    char text[2 * EVENT_TEXT_BYTES];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    struct event *e = add(1, EVENT_STATE, -1, "%s", text);
    ck_assert_uint_eq(strlen(e->text), EVENT_TEXT_BYTES - 1);
    for (int i = 0; i < 2 * EVENT_FIGURES; i++) event_figure(e, "n", i - 1);
    ck_assert_int_eq(e->n_figures, EVENT_FIGURES);
    ck_assert_uint_eq(e->figure[0].value, 0);
    ck_assert_ptr_eq(add(2, EVENT_STATE, -1, "%s", text), e); /* cut off alike */
}
END_TEST

int main(void) {
    Suite *s = suite_create("events");
    TCase *t = tcase_create("events");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, in_order);
    tcase_add_test(t, the_oldest_go);
    tcase_add_test(t, the_same_again);
    tcase_add_test(t, bounds);
    suite_add_tcase(s, t);
    return run_suite(s);
}
