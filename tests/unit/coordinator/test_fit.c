/* test_fit.c - what does not fit is refused with numbers and advice; pages of files count once for a host. */
#include "coordinator/fit.h"

#include <string.h>

#include "tests/unit/run.h"

static struct why why;
static const struct fit_formats F32 = {FMT_F32, FMT_F32}, BF16 = {FMT_BF16, FMT_BF16};

static const struct worker_bytes two[2] = {
    {.experts = 1000, .resident = 500, .mapped = 300, .kv = 200, .buffers = 70, .exchange = 30},
    {.experts = 600, .resident = 500, .mapped = 300, .kv = 200, .buffers = 70, .exchange = 30}};

START_TEST(each_worker) {
    ck_assert_uint_eq(worker_bytes_total(&two[0]), 1800);
    ck_assert_int_eq(fit_check(two, 2, F32, (uint64_t[]){0, 0}, 0, &why), 0);
    ck_assert_int_eq(fit_check(two, 2, F32, (uint64_t[]){1800, 1800}, 0, &why), 0);
    ck_assert_int_eq(fit_check(two, 2, F32, (uint64_t[]){1799, 1799}, 0, &why), ERR_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(why.text, "worker 0 needs"));
    ck_assert_ptr_nonnull(strstr(why.text, "--weights bf16"));
    ck_assert_int_eq(fit_check(two, 2, BF16, (uint64_t[]){1799, 1799}, 0, &why), ERR_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(why.text, "more workers"));
    ck_assert_int_eq(fit_check(two + 1, 1, BF16, (uint64_t[]){1400, 1400}, 0, &why), 0);
}
END_TEST

START_TEST(the_host) {
    ck_assert_int_eq(fit_check(two, 2, F32, (uint64_t[]){0, 0}, 1500 + 300 + 1100, &why), 0);
    ck_assert_int_eq(fit_check(two, 2, F32, (uint64_t[]){0, 0}, 1500 + 300 + 1100 - 1, &why), ERR_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(why.text, "this host needs"));
}
END_TEST

START_TEST(advice) {
    struct worker_bytes b = two[0];
    b.kv = 5000;
    ck_assert_int_eq(fit_check(&b, 1, F32, (uint64_t[]){100, 100}, 0, &why), ERR_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(why.text, "--kv int8, a smaller --kv-tokens"));
    ck_assert_int_eq(fit_check(&b, 1, (struct fit_formats){FMT_Q8, FMT_INT8}, (uint64_t[]){100, 100}, 0, &why), ERR_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(why.text, "use a smaller --kv-tokens"));
    b.exchange = 9000;
    ck_assert_int_eq(fit_check(&b, 1, F32, (uint64_t[]){100, 100}, 0, &why), ERR_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(why.text, "--step-tokens"));
}
END_TEST

RUN("fit", NULL, NULL, each_worker, the_host, advice)
