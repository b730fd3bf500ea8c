/* test_epoch.c - an epoch begins when all its members have acknowledged it, and not before; what is late or foreign counts for
 * nothing. sim_fabric runs it among workers that die and come again. */
#include "coordinator/epoch.h"

#include "tests/unit/run.h"

enum { ACK_US = 1000 };
static struct epochs es;
static uint32_t who[EPOCH_RANKS] = {11, 12, 13};
static void begin(void) {
    epoch_init(&es, ACK_US);
    who[1] = 12;
}

START_TEST(all_must_acknowledge) {
    ck_assert_int_eq(es.state, EPOCH_STEADY);
    ck_assert_uint_eq(es.now.number, 0);
    epoch_open(&es, 7, who, 100);
    ck_assert_int_eq(es.state, EPOCH_PREPARING);
    ck_assert_int_eq(epoch_ack(&es, 0, 11, 1), 0);
    ck_assert_int_eq(epoch_ack(&es, 0, 11, 1), 0); /* twice is once */
    ck_assert_int_eq(epoch_ack(&es, 2, 13, 1), 0);
    ck_assert_uint_eq(es.now.number, 0);
    ck_assert_int_eq(epoch_ack(&es, 1, 12, 1), 1);
    ck_assert_int_eq(es.state, EPOCH_STEADY);
    ck_assert_uint_eq(es.now.number, 1);
    ck_assert_uint_eq(es.now.members, 7);
    ck_assert_uint_eq(es.now.incarnation[1], 12);
    ck_assert_int_eq(epoch_ack(&es, 1, 12, 1), 0); /* over */
    ck_assert_int_eq(epoch_next_us(&es), INT64_MAX);
}
END_TEST

START_TEST(others_words_count_for_nothing) {
    epoch_open(&es, 3, who, 0);
    ck_assert_int_eq(epoch_ack(&es, 0, 11, 1), 0);
    struct {
        int rank;
        uint32_t incarnation, number;
    } const foreign[] = {{1, 12, 0}, {1, 12, 2}, {1, 11, 1}, {2, 13, 1}, {1, 0, 1}, {-1, 12, 1}, {64, 12, 1}};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        ck_assert_int_eq(epoch_ack(&es, foreign[i].rank, foreign[i].incarnation, foreign[i].number), 0);
    ck_assert_int_eq(es.state, EPOCH_PREPARING);
}
END_TEST

START_TEST(who_is_late_is_left_out) {
    epoch_open(&es, 7, who, 100);
    epoch_ack(&es, 0, 11, 1);
    ck_assert_uint_eq(epoch_late(&es, 100 + ACK_US - 1), 0);
    ck_assert_int_eq(epoch_next_us(&es), 100 + ACK_US);
    ck_assert_uint_eq(epoch_late(&es, 100 + ACK_US), 6);
    epoch_open(&es, 3, who, 2000);
    ck_assert_uint_eq(es.next.number, 2);
    ck_assert_uint_eq(es.next.incarnation[2], 0);
    ck_assert_int_eq(epoch_ack(&es, 1, 12, 1), 0); /* of the one that was given up */
    ck_assert_int_eq(epoch_ack(&es, 1, 12, 2), 0);
    ck_assert_uint_eq(epoch_late(&es, 2000), 0);
    ck_assert_int_eq(epoch_ack(&es, 0, 11, 2), 1);
    who[1] = 99; /* its successor */
    epoch_open(&es, 3, who, 3000);
    ck_assert_uint_eq(es.now.incarnation[1], 12);
    ck_assert_uint_eq(es.next.incarnation[1], 99);
    ck_assert_uint_eq(es.next.number, 3);
    ck_assert_int_eq(epoch_ack(&es, 1, 12, 3), 0);
}
END_TEST

START_TEST(nobody_is_left) {
    epoch_open(&es, 3, who, 0);
    epoch_open(&es, 0, who, 10);
    ck_assert_int_eq(es.state, EPOCH_STEADY);
    ck_assert_uint_eq(es.now.number, 2);
    ck_assert_uint_eq(es.now.members, 0);
    ck_assert_uint_eq(epoch_late(&es, 1000000), 0);
    ck_assert_int_eq(epoch_ack(&es, 0, 11, 1), 0);
    epoch_open(&es, 2, who, 20);
    ck_assert_int_eq(epoch_ack(&es, 1, 12, 3), 1);
}
END_TEST

RUN("epoch", begin, NULL, all_must_acknowledge, others_words_count_for_nothing, who_is_late_is_left_out, nobody_is_left)
