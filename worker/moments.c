/* moments.c - with h = R R^T, R upper triangular (Cholesky's, from the last row up), U is R's inverse; both in h's place. */
#include "worker/moments.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16 };
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

static float dot(const float *a, const float *b, int n) {
    lanes sum = {0};
    float rest = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes x, y;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        sum += x * y;
    }
    for (; i < n; i++) rest += a[i] * b[i];
    for (int l = 0; l < LANES; l++) rest += sum[l];
    return rest;
}

static bool decompose(float *h, int n) {
    for (int j = n - 1; j >= 0; j--) {
        float *row = h + (size_t)j * (size_t)n;
        const int behind = n - 1 - j;
        const float square = row[j] - dot(row + j + 1, row + j + 1, behind);
        if (!(square > 0)) return false;
        row[j] = sqrtf(square);
        for (int i = 0; i < j; i++) {
            float *other = h + (size_t)i * (size_t)n;
            other[j] = (other[j] - dot(other + j + 1, row + j + 1, behind)) / row[j];
        }
    }
    return true;
}

/* Row i of the inverse follows from the rows below it. */
static void invert(float *h, int n, float *row) {
    for (int i = n - 1; i >= 0; i--) {
        float *out = h + (size_t)i * (size_t)n;
        memcpy(row, out, sizeof *row * (size_t)n);
        memset(out, 0, sizeof *out * (size_t)n);
        out[i] = 1 / row[i];
        for (int k = i + 1; k < n; k++) {
            const float *below = h + (size_t)k * (size_t)n, times = row[k] * out[i];
            for (int j = k; j < n; j++) out[j] -= times * below[j];
        }
    }
}

bool moments_factor(float *h, int n, float damping) {
    double trace = 0;
    float *row = malloc(sizeof *row * (size_t)n);
    for (int i = 0; i < n; i++) trace += (double)h[(size_t)i * (size_t)n + (size_t)i];
    for (int i = 0; i < n; i++) h[(size_t)i * (size_t)n + (size_t)i] += damping * (float)(trace / n);
    bool ok = row && isfinite(trace) && decompose(h, n);
    if (ok) invert(h, n, row);
    for (int i = 0; ok && i < n; i++) ok = isfinite(h[(size_t)i * (size_t)n + (size_t)i]);
    free(row);
    return ok;
}
