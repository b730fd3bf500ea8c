/* quant.c - packing rows into panels, and reading single weights back. The numbers themselves are quant_make.c's. */
#include "kernels/quant.h"

#include <string.h>

#include "kernels/isa.h"
#include "kernels/quant_make.h"

enum { P = QUANT_PANEL, G = QUANT_GROUP };

/* The widest vectors this processor has: three builds of one text, none of which changes a bit. */
static const struct quant_maker *maker(void) {
#ifdef KERNELS_X86
    if (isa_avx512()) return &quant_maker_avx512;
    if (isa_avx2()) return &quant_maker_avx2;
#endif
    return &quant_maker_plain;
}

/* Group j of the panel that begins with row `first`. */
static void store_group(const struct quant_making *g, enum fmt f, void *piece, int rows, int cols, int first, int j) {
    const size_t group = (size_t)(first / P) * (size_t)quant_groups(cols) + (size_t)j;
    uint8_t *data = (uint8_t *)piece + group * ((size_t)P * G / (f == FMT_Q4 ? 2 : 1));
    uint8_t *scales = (uint8_t *)piece + mat_scales_at(f, rows, cols) + group * quant_scale_bytes(f);
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
    const struct quant_maker *m = maker();
    struct quant_making g;
    for (int k = 0; k < G; k++) g.weight[k] = 1;
    for (int row = 0; row < n; row += P) {
        const int have = n - row < P ? n - row : P;
        for (int j = 0; j < groups; j++) {
            g.n = cols - j * G < G ? cols - j * G : G;
            for (int r = 0; r < P; r++) {
                const float *from = x + (int64_t)(row + r) * cols + j * G;
                for (int k = 0; k < g.n; k++) g.x[k][r] = r < have ? from[k] : 0;
            }
            m->make(&g, f);
            store_group(&g, f, piece, rows, cols, first + row, j);
        }
    }
}

void quant_pack_toward(void *piece, enum fmt f, int rows, int cols, int first, float (*x)[QUANT_PANEL], const float *u) {
    const struct quant_maker *m = maker();
    struct quant_making g;
    for (int j = 0; j < quant_groups(cols); j++) {
        const int from = j * G, left = cols - from;
        g.n = left < G ? left : G;
        m->toward(&g, f, x + from, left, u + (size_t)from * (size_t)cols + (size_t)from, cols);
        store_group(&g, f, piece, rows, cols, first, j);
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
