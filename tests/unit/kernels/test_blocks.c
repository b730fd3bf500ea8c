/* test_blocks.c - chosen blocks for chosen rows: on every backend the bits of the whole product, whatever is chosen beside. */
#include "tests/unit/kernels/kit.h"

static void check(struct backend *b, enum fmt fmt, int T, int blocks, int n, int K, int P) {
    int keep = kit_n_rooms;
    struct mat w = kit_matrix(fmt, blocks * n, K, 1);
    float *x = kit_random_floats((int64_t)T * K, 1), *whole = kit_floats((int64_t)T * blocks * n),
          *y = kit_floats((int64_t)P * n + 1);
    int32_t *row = kit_bytes(sizeof *row * (size_t)(P + 1)), *block = kit_bytes(sizeof *block * (size_t)(P + 1));
    for (int p = 0; p < P; p++) {
        row[p] = (int32_t)(kit_random() % (unsigned)T);
        block[p] = (int32_t)(kit_random() % (unsigned)blocks);
    }
    b->ops->linear(b, whole, x, w, NULL, false, T);
    b->ops->linear_blocks(b, y, x, w, n, row, block, P);
    for (int p = 0; p < P; p++)
        ck_assert_msg(!memcmp(y + (int64_t)p * n, whole + ((int64_t)row[p] * blocks + block[p]) * n, sizeof *y * (size_t)n),
                      "%s: T %d, %d blocks of %d, K %d: pair %d of %d differs", fmt_name(fmt), T, blocks, n, K, p, P);
    kit_clear(keep);
}

START_TEST(bits) {
    static const char *const isas[] = {"ref", "avx2", "avx512"};
    struct backend *b = kit_open(isas[_i / 2], _i % 2 && _i / 2 ? 3 : 1);
    if (!b) return;
    for (int f = 0; f < FMT_PLAIN; f++) {
        check(b, (enum fmt)f, 1, 1, 1, 1, 1);
        check(b, (enum fmt)f, 3, 7, 5, 37, 0);
        check(b, (enum fmt)f, 5, 16, 8, 96, 40);
        check(b, (enum fmt)f, 2, 3, 17, 1001, 9);
        check(b, (enum fmt)f, 1, 4, 300, 512, 3); /* several tasks for one pair */
        check(b, (enum fmt)f, 64, 128, 8, 33, 700);
        check(b, (enum fmt)f, 13, 10, 7, 1024, 40); /* many rows that lie badly in the cache are copied first, one is not */
        check(b, (enum fmt)f, 64, 9, 8, 512, 60);
        check(b, (enum fmt)f, 7, 5, 7, 9001, 40);
    }
    backend_close(b);
}
END_TEST

int main(void) {
    Suite *s = suite_create("blocks");
    TCase *t = tcase_create("all");
    tcase_add_loop_test(t, bits, 0, 6);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
