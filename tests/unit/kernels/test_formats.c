/* test_formats.c - block formats: every code by its definition, in every backend, and the promise of kernels.h that a matrix
 * of such a format gives the bits of its expansion to f32. */
#include "tests/unit/kernels/kit.h"

#include "tests/unit/run.h"

static double e4m3_by_definition(int code) {
    int e = code >> 3 & 15, f = code & 7;
    double v = e ? ldexp(1 + f / 8.0, e - 7) : ldexp(f / 8.0, -6);
    return code & 0x80 ? -v : v;
}

START_TEST(single_numbers) {
    for (int c = 0; c < 256; c++) {
        if ((c & 0x7f) == 0x7f) ck_assert(isnan(e4m3_to_f32((uint8_t)c)));
        else ck_assert_double_eq(e4m3_to_f32((uint8_t)c), e4m3_by_definition(c));
        if (c == 255) ck_assert(isnan(e8m0_to_f32((uint8_t)c)));
        else ck_assert_double_eq(e8m0_to_f32((uint8_t)c), ldexp(1, c - 127));
    }
    ck_assert_float_eq(e4m3_to_f32(0x7e), 448); /* the largest */
    ck_assert_float_eq(e4m3_to_f32(0x01), 0x1p-9f);
    static const float four[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    for (unsigned n = 0; n < 16; n++) ck_assert_float_eq(e2m1_to_f32(n), four[n]);
}
END_TEST

START_TEST(sizes) {
    ck_assert_uint_eq(mat_bytes(FMT_FP8, 130, 257), 130 * 257);
    ck_assert_uint_eq(mat_scale_bytes(FMT_FP8, 130, 257, 128), 2 * 3 * 4); /* edge blocks count */
    ck_assert_uint_eq(mat_bytes(FMT_MXFP4, 3, 64), 3 * 32);
    ck_assert_uint_eq(mat_scale_bytes(FMT_MXFP4, 3, 64, 0), 3 * 2);
    ck_assert_uint_eq(mat_bytes(FMT_BF16, 3, 5), 30);
    ck_assert_uint_eq(mat_scale_bytes(FMT_BF16, 3, 5, 128), 0);
    ck_assert_int_eq(fmt_parse("fp8"), ERR_INVALID); /* not a format that everything can be held in */
}
END_TEST

/* Each code once against each lane's place: x picks one column, so the output is the weight itself. */
START_TEST(every_code) {
    struct backend *b = kit_open(_i < KIT_ISAS ? kit_isas[_i] : "ref", 1);
    static uint8_t codes[256 * 32], nibbles[256 * 16], e8m0[256];
    static float scales[8], x[32], y[256];
    for (int r = 0; r < 256; r++) {
        for (int k = 0; k < 32; k++) codes[r * 32 + k] = (uint8_t)(r + k);
        for (int k = 0; k < 16; k++) nibbles[r * 16 + k] = (uint8_t)(r + 17 * k);
        e8m0[r] = (uint8_t)r;
    }
    for (int i = 0; i < 8; i++) scales[i] = (float)(i + 1) * 0.375f;
    struct mat mxfp4 = {nibbles, FMT_MXFP4, 256, 32, e8m0, 0};
    for (int k = 0; b && k < 32; k++) {
        memset(x, 0, sizeof x);
        x[k] = 1;
        for (int row = 0; row < 256; row++) { /* alone: a NaN in the row's other columns times zero is NaN */
            struct mat one = {codes + row * 32, FMT_FP8, 1, 32, scales + row / 32, 32};
            bool nan = false;
            for (int j = 0; j < 32; j++) nan |= (codes[row * 32 + j] & 0x7f) == 0x7f;
            b->ops->linear(b, y, x, one, NULL, false, 1);
            if (nan) ck_assert(isnan(y[0]));
            else ck_assert_float_eq(y[0], (float)e4m3_by_definition(codes[row * 32 + k]) * scales[row / 32]);
        }
        b->ops->linear(b, y, x, mxfp4, NULL, false, 1);
        for (int row = 0; row < 252; row++) ck_assert_float_eq(y[row], (float)kit_weight(mxfp4, row, k));
        ck_assert(isnan(y[255]));
    }
    backend_close(b);
}
END_TEST

static struct mat expansion(struct mat m) {
    float *wide = kit_floats((int64_t)m.rows * m.cols);
    for (int r = 0; r < m.rows; r++)
        for (int k = 0; k < m.cols; k++) wide[(int64_t)r * m.cols + k] = (float)kit_weight(m, r, k);
    return (struct mat){.data = wide, .fmt = FMT_F32, .rows = m.rows, .cols = m.cols};
}

static void check_same(struct backend *b, struct mat w, int T) {
    int keep = kit_n_rooms, N = w.rows;
    struct mat wide = expansion(w);
    float *x = kit_random_floats((int64_t)T * w.cols, 1), *bias = kit_random_floats(N, 1);
    float *got = kit_floats((int64_t)T * N), *want = kit_floats((int64_t)T * N);
    b->ops->linear(b, got, x, w, bias, false, T);
    b->ops->linear(b, want, x, wide, bias, false, T);
    for (int i = 0; i < T * N; i++)
        ck_assert_msg(!memcmp(got + i, want + i, sizeof *got), "%s: %s %d x %d, %d rows: element %d is %.9g, expanded %.9g",
                      b->ops->name, fmt_name(w.fmt), N, w.cols, T, i, got[i], want[i]);
    kit_clear(keep);
}

START_TEST(same_as_expanded) {
    struct backend *b = kit_open(_i < KIT_ISAS ? kit_isas[_i] : "ref", 2);
    static const int shapes[][2] = {{1, 32}, {7, 96}, {33, 64}, {130, 160}, {45, 1056}, {9, 9216}};
    kit_seed = 4;
    for (unsigned s = 0; b && s < sizeof shapes / sizeof *shapes; s++) {
        for (int f = FMT_PLAIN; f < FMT_QUANT; f++) {
            struct mat w = kit_matrix((enum fmt)f, shapes[s][0], shapes[s][1], 1);
            for (int T = 1; T < 15; T += T < 7 ? 1 : 6) check_same(b, w, T);
            kit_clear(0);
        }
        for (int odd = 1; odd < 40; odd += 7) check_same(b, kit_matrix(FMT_FP8, shapes[s][0], shapes[s][1] - odd % 32, 1), 8);
        kit_clear(0);
    }
    backend_close(b);
}
END_TEST

/* Every number of the format, and what lies between two of them: the nearer one, halves to the even one. */
START_TEST(f16) {
    for (unsigned h = 0; h < 0x8000; h++) {
        const float f = f16_to_f32((uint16_t)h);
        if (h >= 0x7c00) {
            ck_assert(h == 0x7c00 ? isinf(f) : isnan(f));
            continue;
        }
        const float next = h == 0x7bff ? 65536 : f16_to_f32((uint16_t)(h + 1)), half = f + (next - f) / 2;
        const unsigned above = h == 0x7bff ? h : h + 1; /* nothing is larger than the largest */
        ck_assert(f < next);
        ck_assert_uint_eq(f16_from_f32(f), h);
        ck_assert_uint_eq(f16_from_f32(-f), h | 0x8000);
        ck_assert_uint_eq(f16_from_f32(nextafterf(half, 0)), h);
        ck_assert_uint_eq(f16_from_f32(nextafterf(half, INFINITY)), above);
        ck_assert_uint_eq(f16_from_f32(half), h % 2 ? above : h);
    }
    ck_assert_uint_eq(f16_from_f32(INFINITY), 0x7bff);
    ck_assert_uint_eq(f16_from_f32(-1e30f), 0xfbff);
    ck_assert(isnan(f16_to_f32(f16_from_f32(NAN))));
}
END_TEST

int main(void) {
    Suite *s = suite_create("formats");
    TCase *c = tcase_create("formats");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, f16);
    tcase_add_test(c, single_numbers);
    tcase_add_test(c, sizes);
    tcase_add_loop_test(c, every_code, 0, KIT_ISAS + 1);
    tcase_add_loop_test(c, same_as_expanded, 0, KIT_ISAS + 1);
    suite_add_tcase(s, c);
    return run_suite(s);
}
