/* quant.c - products of quantised matrices as kernels/quant.h defines them, number by number. */
#include "kernels/quant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "kernels/ref/ref.h"

struct rounded { /* a group of activations */
    int n[QUANT_GROUP];
    float scale;
};

static void round_group(struct rounded *q, const float *x, int n) {
    float most = 0;
    bool finite = true;
    *q = (struct rounded){.scale = 0};
    for (int k = 0; k < n; k++) {
        most = fmaxf(most, fabsf(x[k]));
        finite &= isfinite(x[k]) != 0;
    }
    if (!finite) q->scale = NAN;
    if (!finite || most < QUANT_LEAST) return;
    const float inverse = 127 / most;
    q->scale = most / 127;
    for (int k = 0; k < n; k++) q->n[k] = (int)lrintf(x[k] * inverse);
}

/* The integer sum of group g of a row of w, and the row's scale there. */
static int dot_group(struct mat w, int row, int g, const struct rounded *q, float *scale) {
    const size_t at = (size_t)(row / QUANT_PANEL) * (size_t)quant_groups(w.cols) + (size_t)g, r = (size_t)row % QUANT_PANEL;
    const uint8_t *data = w.data, *scales = (const uint8_t *)w.scales + at * quant_scale_bytes(w.fmt);
    int sum = 0;
    uint16_t s;
    memcpy(&s, scales + 2 * r, sizeof s);
    *scale = bf16_to_f32(s);
    for (size_t k = 0; k < QUANT_GROUP; k++) {
        const size_t v = k / 4, byte = 4 * r + k % 4;
        const uint8_t pair = data[at * 256 + v / 2 * 64 + byte % 64];
        if (w.fmt == FMT_Q8) sum += q->n[k] * (data[at * 512 + v * 64 + byte] - 128);
        else sum += q->n[k] * (16 * (v % 2 ? pair >> 4 : pair & 15) - scales[32 + r]);
    }
    return sum;
}

/* y[0..n) += what group g of rows [first, first + n) contributes. */
static void add_group(float *y, struct mat w, int first, int n, int g, const struct rounded *q) {
    for (int i = 0; i < n; i++) {
        float s;
        int d = dot_group(w, first + i, g, q, &s);
        y[i] = fmaf((float)d, s * q->scale, y[i]);
    }
}

static void rows_times(float *y, struct mat w, int first, int n, const float *x) {
    struct rounded q;
    memset(y, 0, sizeof *y * (size_t)n);
    for (int k = 0; k < w.cols; k += QUANT_GROUP) {
        round_group(&q, x + k, w.cols - k < QUANT_GROUP ? w.cols - k : QUANT_GROUP);
        add_group(y, w, first, n, k / QUANT_GROUP, &q);
    }
}

static void finish(float *y, const float *sums, int n, const float *bias, bool add) {
    for (int i = 0; i < n; i++) {
        float v = sums[i];
        if (bias) v += bias[i];
        y[i] = add ? v + y[i] : v;
    }
}

void ref_quant_linear(float *y, const float *x, struct mat w, const float *bias, bool add, int T) {
    enum { BLOCK = 256 };
    float sums[BLOCK];
    for (int t = 0; t < T; t++) {
        for (int i = 0; i < w.rows; i += BLOCK) {
            const int n = w.rows - i < BLOCK ? w.rows - i : BLOCK;
            rows_times(sums, w, i, n, x + (int64_t)t * w.cols);
            finish(y + (int64_t)t * w.rows + i, sums, n, bias ? bias + i : NULL, add);
        }
    }
}

/* A group of neurons at a time: they are a group of the activations that down meets. */
void ref_quant_ffn(const struct ffn *f, float *y, const float *x, int H, bool add) {
    float *sums = calloc((size_t)H + 1, sizeof *sums), gate[QUANT_GROUP], up[QUANT_GROUP];
    if (!sums) die("out of memory for a row of %d", H);
    for (int i = 0; i < f->gate.rows; i += QUANT_GROUP) {
        const int n = f->gate.rows - i < QUANT_GROUP ? f->gate.rows - i : QUANT_GROUP;
        struct rounded q;
        rows_times(gate, f->gate, i, n, x);
        finish(gate, gate, n, f->gate_bias ? f->gate_bias + i : NULL, false);
        if (f->up.data) {
            rows_times(up, f->up, i, n, x);
            finish(up, up, n, f->up_bias ? f->up_bias + i : NULL, false);
        }
        for (int j = 0; f->up.data && j < n; j++) gate[j] = (float)ref_swiglu(f->act, (double)gate[j], (double)up[j]);
        round_group(&q, gate, n);
        add_group(sums, f->down, 0, H, i / QUANT_GROUP, &q);
    }
    finish(y, sums, H, f->down_bias, add);
    free(sums);
}
