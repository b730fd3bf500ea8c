/* kit.h - what the kernel tests share: backends of every instruction set this processor has, random data, and rooms.
 *
 * A room is memory whose last byte lies before a page that may not be touched and whose front is watched; it starts as NaN.
 * So reading or writing past the end crashes, writing before the start is found, and using what was never written shows.
 * Its start is at element alignment only, as weights mapped from a file are. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "kernels/quant.h"

#include <check.h> /* last: it has a macro called fail */

enum { KIT_ROOMS = 128, KIT_FRONT = 64 };

struct kit_room {
    char *map, *data;
    size_t map_bytes;
};
static struct kit_room kit_rooms[KIT_ROOMS]; /* those past kit_n_rooms are kept for the next that fits */
static int kit_n_rooms;
static uint64_t kit_seed = 1;

static inline void kit_map(struct kit_room *r, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + KIT_FRONT + page - 1) / page * page + page;
    if (r->map_bytes < whole) {
        if (r->map) munmap(r->map, r->map_bytes);
        r->map = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ck_assert(r->map != MAP_FAILED);
        r->map_bytes = whole;
        ck_assert_int_eq(mprotect(r->map + whole - page, page, PROT_NONE), 0);
    }
    r->data = r->map + r->map_bytes - page - bytes;
}

static inline void *kit_bytes(size_t bytes) {
    ck_assert_int_lt(kit_n_rooms, KIT_ROOMS);
    struct kit_room *r = &kit_rooms[kit_n_rooms++];
    kit_map(r, bytes);
    memset(r->data - KIT_FRONT, 0xa5, KIT_FRONT);
    memset(r->data, 0xff, bytes);
    return r->data;
}
static inline float *kit_floats(int64_t n) { return kit_bytes((size_t)n * sizeof(float)); }

/* Checks the fronts of the rooms taken since kit_n_rooms was `keep`, and gives them back. */
static inline void kit_clear(int keep) {
    while (kit_n_rooms > keep) {
        struct kit_room *r = &kit_rooms[--kit_n_rooms];
        for (int i = 1; i <= KIT_FRONT; i++) ck_assert_msg((unsigned char)r->data[-i] == 0xa5, "written before the start");
    }
}

static inline uint32_t kit_random(void) { /* splitmix64 */
    uint64_t z = kit_seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}
static inline float kit_uniform(float low, float high) { return low + (high - low) * (float)(kit_random() >> 8) * 0x1p-24f; }

static inline float *kit_random_floats(int64_t n, float scale) {
    float *p = kit_floats(n);
    for (int64_t i = 0; i < n; i++) p[i] = kit_uniform(-scale, scale);
    return p;
}
/* Each part in a room of its own; rows * cols may be 0. */
static inline struct mat kit_quantised(enum fmt fmt, int rows, int cols, float scale) {
    struct mat m = {.fmt = fmt, .rows = rows, .cols = cols};
    size_t n = mat_bytes(fmt, rows, cols), n_scales = mat_scale_bytes(fmt, rows, cols, 0);
    float *x = malloc(sizeof *x * ((size_t)rows * (size_t)cols + 1));
    char *piece = malloc(mat_held_bytes(fmt, rows, cols, 0) + 1);
    ck_assert(x && piece);
    for (int64_t i = 0; i < (int64_t)rows * cols; i++) x[i] = kit_uniform(-scale, scale);
    quant_pack(piece, fmt, rows, cols, 0, rows, x);
    m.data = memcpy(kit_bytes(n), piece, n);
    m.scales = memcpy(kit_bytes(n_scales), piece + mat_scales_at(fmt, rows, cols), n_scales);
    free(x);
    free(piece);
    return m;
}
static inline struct mat kit_matrix(enum fmt fmt, int rows, int cols, float scale) {
    int64_t n = (int64_t)rows * cols;
    struct mat m = {.fmt = fmt, .rows = rows, .cols = cols};
    if (fmt == FMT_F32) {
        m.data = kit_random_floats(n, scale);
        return m;
    }
    if (fmt == FMT_BF16) {
        uint16_t *p = kit_bytes((size_t)n * sizeof *p);
        for (int64_t i = 0; i < n; i++) p[i] = bf16_from_f32(kit_uniform(-scale, scale));
        m.data = p;
        return m;
    }
    if (fmt_quant(fmt)) return kit_quantised(fmt, rows, cols, scale);
    m.block = 32;
    size_t n_scales = mat_scale_bytes(fmt, rows, cols, m.block);
    uint8_t *p = kit_bytes(mat_bytes(fmt, rows, cols)), *scales = kit_bytes(n_scales);
    for (size_t i = 0; i < mat_bytes(fmt, rows, cols); i++) {
        p[i] = (uint8_t)kit_random();
        if (fmt == FMT_FP8 && (p[i] & 0x7f) == 0x7f) p[i] = 0; /* NaN */
    }
    for (size_t i = 0; fmt == FMT_FP8 && i < n_scales / 4; i++) ((float *)scales)[i] = kit_uniform(scale / 448, scale / 100);
    for (size_t i = 0; fmt == FMT_MXFP4 && i < n_scales; i++) scales[i] = (uint8_t)(120 + kit_random() % 5);
    m.data = p;
    m.scales = scales;
    return m;
}
/* From the formats' definitions, not through the functions of kernels.h. */
static inline double kit_weight(struct mat m, int row, int col) {
    int64_t i = (int64_t)row * m.cols + col;
    const uint8_t *bytes = m.data;
    if (m.fmt == FMT_FP8) {
        int across = (m.cols + m.block - 1) / m.block, e = bytes[i] >> 3 & 15, f = bytes[i] & 7;
        double v = e ? ldexp(1 + f / 8.0, e - 7) : ldexp(f / 8.0, -6);
        return (float)((bytes[i] & 0x80 ? -v : v) * ((const float *)m.scales)[row / m.block * across + col / m.block]);
    }
    if (m.fmt == FMT_MXFP4) {
        unsigned four = i & 1 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15u, e = four >> 1 & 3, f = four & 1;
        double v = e ? ldexp(1 + f / 2.0, (int)e - 1) : f / 2.0;
        return ldexp(four & 8 ? -v : v, ((const uint8_t *)m.scales)[i / 32] - 127);
    }
    return m.fmt == FMT_F32 ? ((const float *)m.data)[i] : bf16_to_f32(((const uint16_t *)m.data)[i]);
}

/* The fast backends that this processor can run; NULL for those it cannot. The last differs where weights are quantised. */
static const char *const kit_isas[] = {"avx2", "avx512", "avx512bw"};
enum { KIT_ISAS = 2, KIT_QUANT_ISAS = 3 };
static inline struct backend *kit_open(const char *isa, int threads) {
    struct why why;
    struct backend *b = NULL;
    struct backend_options o = {.isa = isa, .threads = threads};
    int rc = backend_open(&o, &b, &why);
    ck_assert_msg(rc == 0 || rc == ERR_UNSUPPORTED, "%s: %s", isa, why.text);
    return b;
}

/* Largest error of a sum of n products whose magnitudes add to `magnitude`, taken in 16 lanes and then a tree: every partial
 * sum rounds once (Higham, Accuracy and Stability, 3.1). */
static inline double kit_sum_error(int n, double magnitude) { return (n / 16 + 8) * 0x1p-24 * magnitude + 1e-38; }
