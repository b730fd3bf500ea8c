/* test_moments.c - the factor of second moments, and what quantising with it does to products. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quant.h"
#include "worker/moments.h"
#include "tests/unit/run.h"

enum { N = 72, ROWS = 16, INPUTS = 400 };

static uint64_t state = 7;
static float uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) / (float)(1 << 23) - 1;
}

/* Inputs of which neighbours go together, and some are large. */
static void make_inputs(float x[INPUTS][N], float h[N][N]) {
    memset(h, 0, sizeof(float[N][N]));
    for (int i = 0; i < INPUTS; i++) {
        for (int k = 0; k < N; k++) x[i][k] = (k % 9 ? 1 : 6) * uniform() + (k ? 0.8f * x[i][k - 1] : 0);
        for (int a = 0; a < N; a++)
            for (int b = 0; b < N; b++) h[a][b] += x[i][a] * x[i][b];
    }
}

START_TEST(factor_of_the_inverse) {
    static float x[INPUTS][N], h[N][N], u[N][N];
    double trace = 0;
    make_inputs(x, h);
    for (int i = 0; i < N; i++) trace += (double)h[i][i];
    memcpy(u, h, sizeof u);
    ck_assert(moments_factor(&u[0][0], N, 0.01f));
    for (int i = 0; i < N; i++) h[i][i] += (float)(0.01 * trace / N);
    double worst = 0;
    for (int a = 0; a < N; a++) {
        for (int b = 0; b < N; b++) { /* U h U^T is the identity */
            double sum = 0;
            for (int i = 0; i < N; i++)
                for (int j = 0; j < N; j++) sum += (double)u[a][i] * (double)h[i][j] * (double)u[b][j];
            worst = fmax(worst, fabs(sum - (a == b)));
            if (b < a) ck_assert(u[a][b] == 0);
        }
    }
    ck_assert_msg(worst < 1e-3, "off by %g", worst);
}
END_TEST

START_TEST(nothing_to_factor) {
    float zero[9] = {0}, not_a_number[4] = {NAN, 0, 0, 1};
    ck_assert(!moments_factor(zero, 3, 0.01f));
    ck_assert(!moments_factor(not_a_number, 2, 0.01f));
}
END_TEST

static double product_error(struct mat m, const float w[ROWS][N], float x[INPUTS][N]) {
    double error = 0, all = 0;
    for (int i = 0; i < INPUTS; i++) {
        for (int r = 0; r < ROWS; r++) {
            double is = 0, was = 0;
            for (int k = 0; k < N; k++) {
                is += (double)quant_weight(m, r, k) * (double)x[i][k];
                was += (double)w[r][k] * (double)x[i][k];
            }
            error += (is - was) * (is - was);
            all += was * was;
        }
    }
    return error / all;
}

START_TEST(products_come_nearer) {
    static float x[INPUTS][N], u[N][N], w[ROWS][N], (*turned)[QUANT_PANEL];
    const enum fmt f = _i ? FMT_Q8 : FMT_Q4;
    make_inputs(x, u);
    ck_assert(moments_factor(&u[0][0], N, 0.01f));
    void *plain = aligned_alloc(64, 1 << 16), *fitted = aligned_alloc(64, 1 << 16);
    turned = aligned_alloc(64, sizeof *turned * N);
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < N; k++) w[r][k] = turned[k][r] = uniform() + uniform() + uniform();
    quant_pack(plain, f, ROWS, N, 0, ROWS, &w[0][0]);
    quant_pack_toward(fitted, f, ROWS, N, 0, turned, &u[0][0]);
    const double was = product_error(mat_held(plain, f, ROWS, N, 0), w, x);
    const double is = product_error(mat_held(fitted, f, ROWS, N, 0), w, x);
    ck_assert_msg(is < 0.6 * was, "%s: %g of products, %g for itself", fmt_name(f), is, was);
    free(plain);
    free(fitted);
    free(turned);
}
END_TEST

int main(void) {
    Suite *s = suite_create("moments");
    TCase *t = tcase_create("moments");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, factor_of_the_inverse);
    tcase_add_test(t, nothing_to_factor);
    tcase_add_loop_test(t, products_come_nearer, 0, 2);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
