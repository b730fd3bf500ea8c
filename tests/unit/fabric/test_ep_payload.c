/* test_ep_payload.c - formats of rows: exact where they say so, their error where not, the same bits on every path; and sums
 * that have no order. Prints the relative L2 error per row that docs/BENCHMARKS.md names. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "fabric/ep_fixed.h"
#include "fabric/ep_payload.h"
#include "kernels/kernels.h"

#include "tests/unit/run.h"

enum { MOST = 3000 };

/* About normal, with an outlier now and then, as activations have them. */
static float activation(uint64_t seed, int i) {
    uint64_t h = hash_u64(seed * 4096 + (uint64_t)i);
    double sum = 0;
    for (int n = 0; n < 4; n++) sum += (double)(h >> (16 * n) & 0xffff) / 65536 - 0.5;
    return (float)(sum * 1.7) * (hash_u64(h) % 500 == 0 ? 20 : 1);
}

static void there_and_back(enum ep_format f, const float *row, float *out, int H) {
    static _Alignas(64) unsigned char room[MOST * 4 + 64];
    memset(room, 0xee, sizeof room);
    ep_pack(f, room, row, H);
    size_t bytes = ep_row_bytes(f, H);
    ck_assert_uint_eq(bytes % 4, 0);
    ck_assert_int_eq(room[bytes], 0xee); /* no byte beyond */
    ep_unpack(f, out, room, H);
}

static double error_of(enum ep_format f, int H, uint64_t seed) {
    float row[MOST] = {0}, back[MOST] = {0};
    double off = 0, all = 0;
    for (int i = 0; i < H; i++) row[i] = activation(seed, i);
    there_and_back(f, row, back, H);
    for (int i = 0; i < H; i++) {
        off += ((double)row[i] - back[i]) * ((double)row[i] - back[i]);
        all += (double)row[i] * row[i];
    }
    return sqrt(off / all);
}

START_TEST(errors_of_rows) {
    static const double most[EP_PLAIN_FORMATS] = {0, 0.003, 0.03, 0.05};
    for (int f = 0; f < EP_PLAIN_FORMATS; f++) {
        double worst = 0, sum = 0;
        for (uint64_t seed = 1; seed <= 200; seed++) {
            double e = error_of((enum ep_format)f, 2048, seed);
            worst = e > worst ? e : worst;
            sum += e;
        }
        printf("%-5s relative L2 error of a row: mean %.5f, worst %.5f; %zu bytes of 8192\n", ep_format_name((enum ep_format)f),
               sum / 200, worst, ep_row_bytes((enum ep_format)f, 2048));
        ck_assert_double_le(worst, most[f]);
    }
}
END_TEST

/* What has travelled once travels unharmed ever after. */
START_TEST(a_second_journey_changes_nothing) {
    for (int H = 1; H < 300; H++) {
        float row[MOST] = {0}, once[MOST] = {0}, twice[MOST] = {0};
        for (int i = 0; i < H; i++) row[i] = activation((uint64_t)H, i);
        for (int f = 0; f < EP_FP8; f++) { /* an fp8 scale is not a power of two: its products round */
            there_and_back((enum ep_format)f, row, once, H);
            there_and_back((enum ep_format)f, once, twice, H);
            for (int i = 0; i < H; i++)
                ck_assert_float_le(fabsf(once[i] - twice[i]), f == EP_INT8 ? fabsf(once[i]) * 1e-6f : 0);
        }
    }
}
END_TEST

START_TEST(bf16_is_the_kernels_bf16) {
    for (uint64_t n = 0; n < 200000; n++) {
        uint32_t u = (uint32_t)hash_u64(n);
        float x, back;
        memcpy(&x, &u, sizeof x);
        there_and_back(EP_BF16, &x, &back, 1);
        float want = bf16_to_f32(bf16_from_f32(x));
        ck_assert(isnan(x) ? isnan(back) : memcmp(&back, &want, sizeof want) == 0);
    }
}
END_TEST

/* The nearest of all 127 magnitudes, ties to the even one. */
static float nearest_e4m3(float x) {
    int best = 0;
    for (int b = 1; b < 127; b++) {
        float d = fabsf(e4m3_to_f32((uint8_t)b) - fabsf(x)), e = fabsf(e4m3_to_f32((uint8_t)best) - fabsf(x));
        if (d < e || (d == e && b % 2 == 0)) best = b;
    }
    return copysignf(e4m3_to_f32((uint8_t)best), x);
}

START_TEST(fp8_is_the_nearest) {
    for (uint64_t n = 0; n < 4000; n++) {
        uint64_t h = hash_u64(n);
        float row[2] = {448, ldexpf((float)(int32_t)h, -(int)(22 + (h >> 40) % 24))}, back[2]; /* scale 1 */
        if (fabsf(row[1]) > 448) continue;
        there_and_back(EP_FP8, row, back, 2);
        ck_assert_float_eq(back[0], 448);
        ck_assert_msg(back[1] == nearest_e4m3(row[1]), "%.9g became %.9g", row[1], back[1]);
    }
}
END_TEST

/* What is not finite never becomes a number; its group goes with it, others do not. */
START_TEST(nothing_hides) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float row[256] = {0}, back[256] = {0};
    for (int f = EP_INT8; f < EP_PLAIN_FORMATS; f++) {
        for (int which = 0; which < 3; which++) {
            for (int i = 0; i < 256; i++) row[i] = (float)i;
            row[77] = bad[which];
            there_and_back((enum ep_format)f, row, back, 256);
            for (int i = 0; i < 128; i++) ck_assert(isnan(back[i]));
            for (int i = 128; i < 256; i++) ck_assert(isfinite(back[i]));
        }
        memset(row, 0, sizeof row);
        there_and_back((enum ep_format)f, row, back, 256);
        for (int i = 0; i < 256; i++) ck_assert_float_eq(back[i], 0);
        for (int i = 0; i < 256; i++) row[i] = ldexpf(1, -149);
        there_and_back((enum ep_format)f, row, back, 256);
        for (int i = 0; i < 256; i++) ck_assert_float_eq(back[i], 0);
        for (int i = 0; i < 256; i++) row[i] = 0x1.8p127f;
        there_and_back((enum ep_format)f, row, back, 256);
        for (int i = 0; i < 256; i++) ck_assert(isfinite(back[i]));
    }
}
END_TEST

START_TEST(names) {
    for (int f = 0; f < EP_PLAIN_FORMATS; f++) ck_assert_int_eq(ep_format_parse(ep_format_name((enum ep_format)f)), f);
    ck_assert_int_eq(ep_format_parse("sum32"), ERR_INVALID);
    ck_assert_int_eq(ep_format_parse(""), ERR_INVALID);
}
END_TEST

/* ---- sums ---- */

enum { K = 8, N = 333 };

static void shuffle(int *order, uint64_t seed) {
    for (int i = K - 1; i > 0; i--) {
        int j = (int)(hash_u64(seed * 64 + (uint64_t)i) % (uint64_t)(i + 1)), o = order[i];
        order[i] = order[j];
        order[j] = o;
    }
}

/* Rows in any order, split among any number of workers, by way of 32 bits where these do. */
START_TEST(sums_have_no_order) {
    for (uint64_t seed = 1; seed <= 300; seed++) {
        float rows[K][N] = {{0}}, weight[K] = {0}, want[N] = {0}, got[N] = {0};
        int64_t sum[N] = {0}, home[N] = {0};
        for (int k = 0; k < K; k++) {
            weight[k] = (float)(1 + hash_u64(seed * 8 + (uint64_t)k) % 100) / 400;
            for (int i = 0; i < N; i++) rows[k][i] = activation(seed * 16 + (uint64_t)k, i) * (seed % 3 ? 1 : 900);
            ep_fixed_add_row(sum, rows[k], weight[k], N);
        }
        ep_fixed_floats(want, sum, N);
        int order[K];
        for (int k = 0; k < K; k++) order[k] = k;
        shuffle(order, seed);
        for (int first = 0, n; first < K; first += n) {
            int64_t part[N] = {0};
            n = 1 + (int)(hash_u64(seed + (uint64_t)first) % 4);
            if (n > K - first) n = K - first;
            for (int k = first; k < first + n; k++) ep_fixed_add_row(part, rows[order[k]], weight[order[k]], N);
            if (ep_fixed_narrow(part, N)) ep_fixed_add_narrow(home, (const int32_t *)part, N);
            else ep_fixed_add(home, part, N);
        }
        ep_fixed_floats(got, home, N);
        ck_assert_mem_eq(got, want, sizeof got);
        for (int i = 0; i < N; i++) { /* against the sum in k order, which rounds too */
            float plain = 0, size = 0;
            for (int k = 0; k < K; k++) plain += weight[k] * rows[k][i], size += fabsf(weight[k] * rows[k][i]);
            ck_assert_double_le(fabs((double)plain - want[i]), K * 0x1p-25 + (double)size * K * 0x1p-24);
        }
    }
}
END_TEST

START_TEST(markers_stay) {
    static const float bad[] = {NAN, INFINITY, -INFINITY, 0x1p28f, -0x1p28f};
    for (int which = 0; which < 5; which++) {
        int64_t sum[3] = {0}, other[3] = {0};
        float row[3] = {1, bad[which], -2}, out[3];
        ep_fixed_add_row(sum, row, 1, 3);
        row[1] = 5;
        ep_fixed_add_row(sum, row, 1, 3);
        ep_fixed_add(other, sum, 3);
        ep_fixed_add_narrow(other, (const int32_t[]){1, 1, 1}, 3);
        ck_assert(!ep_fixed_narrow(sum, 3));
        ep_fixed_floats(out, other, 3);
        ck_assert_float_eq(out[0], 2 + 0x1p-24f);
        ck_assert(isnan(out[1]));
        ck_assert(isfinite(out[2]));
    }
    int64_t edge[2] = {INT32_MAX, INT32_MIN}, beyond[2] = {INT32_MAX + INT64_C(1), 0};
    ck_assert(ep_fixed_narrow(edge, 2));
    ck_assert_int_eq(((int32_t *)edge)[1], INT32_MIN);
    ck_assert(!ep_fixed_narrow(beyond, 2));
}
END_TEST

int main(void) {
    Suite *s = suite_create("ep_payload");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, errors_of_rows);
    tcase_add_test(t, a_second_journey_changes_nothing);
    tcase_add_test(t, bf16_is_the_kernels_bf16);
    tcase_add_test(t, fp8_is_the_nearest);
    tcase_add_test(t, nothing_hides);
    tcase_add_test(t, names);
    tcase_add_test(t, sums_have_no_order);
    tcase_add_test(t, markers_stay);
    suite_add_tcase(s, t);
    return run_suite(s);
}
