/* quant.c - making q8 and q4: a panel's group at a time, sixteen rows side by side.
 *
 * Every number depends on one row's group alone, so it does not matter who packs what, or how many at once. The inner loops run
 * over the sixteen rows: compilers turn them into vector code, and no sum changes its order by that. */
#include "kernels/quant.h"

#include <math.h>
#include <string.h>

enum { P = QUANT_PANEL, G = QUANT_GROUP };

struct group { /* of one panel; columns beyond n are padding */
    float x[G][P];
    uint8_t code[G][P];
    float scale[P], zero[P];
    int n;
};

static float rounded_scale(float s) { return bf16_to_f32(bf16_from_f32(s)); }

/* Nearest bf16 to a 127th of the largest: a code is never off by more than half a step, the last one by a quarter more. */
static void make_q8(struct group *g) {
    float most[P] = {0}, finite[P] = {0}, inverse[P];
    for (int k = 0; k < g->n; k++) {
        for (int r = 0; r < P; r++) {
            const float a = fabsf(g->x[k][r]);
            most[r] = a > most[r] ? a : most[r];
            finite[r] += a * 0;
        }
    }
    for (int r = 0; r < P; r++) {
        g->scale[r] = finite[r] != 0 ? NAN : most[r] < QUANT_LEAST ? 0 : rounded_scale(most[r] / 127);
        inverse[r] = g->scale[r] > 0 ? 1 / g->scale[r] : 0;
    }
    for (int k = 0; k < g->n; k++) {
        for (int r = 0; r < P; r++) {
            float v = g->x[k][r] * inverse[r] + 128.5f;
            v = v > 1 ? v : 1; /* NaN too */
            g->code[k][r] = (uint8_t)(int)(v < 255 ? v : 255);
        }
    }
    for (int k = g->n; k < G; k++) memset(g->code[k], 128, P);
}

struct line { /* x ~ step * level - low */
    float step[P], low[P], error[P];
};

/* Gives every x the nearest level of (x + low) * density, then finds the line that fits these best, by least squares. In units
 * of a fifteenth of the range, and the range holds 0; `low` can be 15.9 steps at most (z is a byte) and at least 0. */
static void fit(const struct group *g, const float *low, float density, struct line *f) {
    const float n = (float)g->n;
    float sl[P] = {0}, sll[P] = {0}, sx[P] = {0}, sxl[P] = {0}, sxx[P] = {0};
    for (int k = 0; k < g->n; k++) {
        for (int r = 0; r < P; r++) {
            const float x = g->x[k][r];
            float l = (x + low[r]) * density + 0.5f;
            l = l > 0 ? l : 0;
            l = (float)(int)(l < 15 ? l : 15);
            sl[r] += l;
            sll[r] += l * l;
            sx[r] += x;
            sxl[r] += x * l;
            sxx[r] += x * x;
        }
    }
    for (int r = 0; r < P; r++) {
        const float d = n * sll[r] - sl[r] * sl[r];
        float step = d > 0 ? (n * sxl[r] - sx[r] * sl[r]) / d : 0, at = (sx[r] - step * sl[r]) / n;
        if (at > 0) {
            at = 0;
            step = sll[r] > 0 ? sxl[r] / sll[r] : 1;
        }
        if (-at > 15.9f * step) {
            step = 1;
            at = (sx[r] - sl[r]) / n;
            at = at > 0 ? 0 : at < -15.9f ? -15.9f : at;
        }
        f->step[r] = step;
        f->low[r] = -at;
        f->error[r] = sxx[r] - 2 * (step * sxl[r] + at * sx[r]) + step * step * sll[r] + 2 * step * at * sl[r] + n * at * at;
    }
}

/* The line that leaves the least squared error among those found from some densities of levels: sixteen from end to end would
 * be a poor choice, few weights are there. */
static void search(const struct group *g, const float *low, struct line *best) {
    static const float densities[] = {1, 0.965f, 1.02f, 1.045f, 1.075f, 1.105f, 1.145f, 1.19f};
    for (int r = 0; r < P; r++) best->error[r] = INFINITY;
    for (unsigned i = 0; i < sizeof densities / sizeof *densities; i++) {
        float from[P];
        struct line f;
        for (int r = 0; r < P; r++) from[r] = low[r] - 7.5f * (1 - 1 / densities[i]); /* both ends move in alike */
        fit(g, from, densities[i], &f);
        for (int r = 0; r < P; r++) {
            const bool better = f.error[r] < best->error[r];
            best->error[r] = better ? f.error[r] : best->error[r];
            best->step[r] = better ? f.step[r] : best->step[r];
            best->low[r] = better ? f.low[r] : best->low[r];
        }
    }
}

static void make_q4(struct group *g) {
    float low[P] = {0}, high[P] = {0}, finite[P] = {0}, unit[P], inverse[P];
    struct line best = {.step = {0}};
    for (int k = 0; k < g->n; k++) {
        for (int r = 0; r < P; r++) {
            const float x = g->x[k][r];
            low[r] = x < low[r] ? x : low[r];
            high[r] = x > high[r] ? x : high[r];
            finite[r] += x * 0;
        }
    }
    for (int r = 0; r < P; r++) {
        unit[r] = high[r] / 15 - low[r] / 15;
        inverse[r] = finite[r] == 0 && unit[r] > QUANT_LEAST ? 1 / unit[r] : 0;
        low[r] = inverse[r] > 0 ? -low[r] * inverse[r] : 0;
    }
    for (int k = 0; k < g->n; k++) {
        for (int r = 0; r < P; r++) g->x[k][r] = inverse[r] > 0 ? g->x[k][r] * inverse[r] : 0;
    }
    search(g, low, &best);
    for (int r = 0; r < P; r++) {
        const float s = inverse[r] > 0 ? rounded_scale(best.step[r] * unit[r] / 16) : 0,
                    z = s > 0 ? best.low[r] * unit[r] / s + 0.5f : 0;
        g->scale[r] = finite[r] == 0 ? s : NAN;
        g->zero[r] = (float)(int)(z < 255 ? z : 255);
        inverse[r] = s > 0 ? unit[r] / (16 * s) : 0;
        low[r] = g->zero[r] / 16 + 0.5f;
    }
    for (int k = 0; k < g->n; k++) {
        for (int r = 0; r < P; r++) {
            float l = g->x[k][r] * inverse[r] + low[r];
            l = l > 0 ? l : 0;
            g->code[k][r] = (uint8_t)(int)(l < 15 ? l : 15);
        }
    }
    for (int k = g->n; k < G; k++) memset(g->code[k], 0, P);
}

static void store_group(const struct group *g, enum fmt f, uint8_t *data, uint8_t *scales) {
    uint16_t s[P];
    for (int r = 0; r < P; r++) s[r] = bf16_from_f32(g->scale[r]);
    memcpy(scales, s, sizeof s);
    for (int r = 0; f == FMT_Q4 && r < P; r++) scales[sizeof s + (size_t)r] = (uint8_t)g->zero[r];
    for (int k = 0; k < G; k++) {
        const int v = k / 4, byte = k % 4;
        for (int r = 0; f == FMT_Q8 && r < P; r++) data[v * 64 + 4 * r + byte] = g->code[k][r];
        for (int r = 0; f == FMT_Q4 && r < P; r++) {
            uint8_t *at = &data[v / 2 * 64 + 4 * r + byte];
            *at = (uint8_t)(v % 2 ? *at | g->code[k][r] << 4 : g->code[k][r]);
        }
    }
}

void quant_pack(void *piece, enum fmt f, int rows, int cols, int first, int n, const float *x) {
    const int groups = quant_groups(cols);
    const size_t data_bytes = (size_t)P * G / (f == FMT_Q4 ? 2 : 1), scale_bytes = quant_scale_bytes(f);
    uint8_t *data = piece, *scales = data + mat_scales_at(f, rows, cols);
    struct group g;
    for (int row = 0; row < n; row += P) {
        const int have = n - row < P ? n - row : P;
        for (int j = 0; j < groups; j++) {
            const size_t at = (size_t)((first + row) / P) * (size_t)groups + (size_t)j;
            g.n = cols - j * G < G ? cols - j * G : G;
            for (int r = 0; r < P; r++) {
                const float *from = x + (int64_t)(row + r) * cols + j * G;
                for (int k = 0; k < g.n; k++) g.x[k][r] = r < have ? from[k] : 0;
            }
            if (f == FMT_Q8) make_q8(&g);
            else make_q4(&g);
            store_group(&g, f, data + at * data_bytes, scales + at * scale_bytes);
        }
    }
}

float quant_weight(struct mat w, int row, int col) {
    const size_t at = (size_t)(row / P) * (size_t)quant_groups(w.cols) + (size_t)(col / G);
    const uint8_t *scales = (const uint8_t *)w.scales + at * quant_scale_bytes(w.fmt);
    const int r = row % P, k = col % G, v = k / 4;
    uint16_t s;
    memcpy(&s, scales + 2 * r, sizeof s);
    if (w.fmt == FMT_Q8)
        return (float)(((const uint8_t *)w.data)[at * P * G + (size_t)(v * 64 + 4 * r + k % 4)] - 128) * bf16_to_f32(s);
    const uint8_t b = ((const uint8_t *)w.data)[at * P * G / 2 + (size_t)(v / 2 * 64 + 4 * r + k % 4)];
    return (float)(16 * (v % 2 ? b >> 4 : b & 15) - scales[2 * P + r]) * bf16_to_f32(s);
}
