/* ep_payload.c - loops without branches over plain arrays, so that the compiler makes vectors of them. The same source is
 * compiled for AVX2 where the machine has it: no operation in it may be fused or reordered, so both give the same bits. */
#include "fabric/ep_payload.h"

#include <string.h>

#include "base/log.h"
#include "base/status.h"

static const char *const names[EP_FORMATS] = {"f32", "bf16", "int8", "fp8", "sum32", "sum64"};

const char *ep_format_name(enum ep_format f) { return names[f]; }

int ep_format_parse(const char *name) {
    for (int f = 0; f < EP_PLAIN_FORMATS; f++)
        if (!strcmp(name, names[f])) return f;
    return ERR_INVALID;
}

static size_t groups_of(int hidden) { return ((size_t)hidden + EP_GROUP - 1) / EP_GROUP; }

size_t ep_row_bytes(enum ep_format f, int hidden) {
    size_t H = (size_t)hidden;
    switch (f) {
    case EP_F32:
    case EP_SUM32: return H * 4;
    case EP_BF16: return (H * 2 + 3) / 4 * 4;
    case EP_INT8:
    case EP_FP8: return groups_of(hidden) * sizeof(float) + (H + 3) / 4 * 4;
    case EP_SUM64: return H * 8;
    case EP_FORMATS: break;
    }
    BUG("ep: format %d", (int)f);
}

static inline uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* The bodies are inlined into a function per instruction set below. */
#define BODY static inline __attribute__((always_inline)) void

BODY pack_bf16(uint16_t *restrict out, const float *restrict row, int n) {
    for (int i = 0; i < n; i++) {
        uint32_t u = bits_of(row[i]), rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
        out[i] = (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? (u >> 16 | 0x40) : rounded);
    }
}

BODY unpack_bf16(float *restrict row, const uint16_t *restrict in, int n) {
    for (int i = 0; i < n; i++) row[i] = float_of((uint32_t)in[i] << 16);
}

/* Of magnitudes as integers, in whose order infinities and NaN come last. */
static inline __attribute__((always_inline)) float largest(const float *row, int n) {
    uint32_t most = 0;
    for (int i = 0; i < n; i++) {
        uint32_t u = bits_of(row[i]) & 0x7fffffff;
        most = u > most ? u : most;
    }
    return float_of(most);
}

/* Adding and taking away 1.5 * 2^23 rounds to the nearest even integer. */
static inline __attribute__((always_inline)) float nearest(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

/* Group of n numbers: the scale, and what to multiply by. Scales of zero and below the normal numbers give zeros. */
static inline __attribute__((always_inline)) float scale_of(float most, float top, float *inverse) {
    bool finite = most < 0x1p127f * 2, some = most >= 0x1p-100f;
    *inverse = finite && some ? top / most : 0;
    return !finite ? float_of(0x7fc00000) : some ? most / top : 0;
}

BODY pack_int8(float *restrict scale, int8_t *restrict out, const float *restrict row, int n) {
    float inverse;
    *scale = scale_of(largest(row, n), 127, &inverse);
    if (inverse == 0) {
        memset(out, 0, (size_t)n);
        return;
    }
    for (int i = 0; i < n; i++) out[i] = (int8_t)(int32_t)nearest(row[i] * inverse);
}

BODY unpack_int8(float *restrict row, float scale, const int8_t *restrict in, int n) {
    for (int i = 0; i < n; i++) row[i] = (float)in[i] * scale;
}

/* |x| <= 448 and a little. From 2^-6 on, three bits of mantissa stay; below, the number is a multiple of 2^-9. */
BODY pack_fp8(float *restrict scale, uint8_t *restrict out, const float *restrict row, int n) {
    float inverse;
    *scale = scale_of(largest(row, n), 448, &inverse);
    if (inverse == 0) {
        memset(out, 0, (size_t)n);
        return;
    }
    for (int i = 0; i < n; i++) {
        uint32_t u = bits_of(row[i] * inverse), sign = u >> 24 & 0x80, a = u & 0x7fffffff;
        uint32_t normal = (a + 0x7ffff + (a >> 20 & 1) - (120u << 23)) >> 20;
        uint32_t small = (uint32_t)(int32_t)nearest(float_of(a < (121u << 23) ? a : 0) * 0x1p9f);
        out[i] = (uint8_t)(sign | (a < (121u << 23) ? small : normal));
    }
}

/* Exponent and mantissa at their places in an f32 make the number times 2^-120, denormal ones included. */
BODY unpack_fp8(float *restrict row, float scale, const uint8_t *restrict in, int n) {
    for (int i = 0; i < n; i++) {
        uint32_t a = (uint32_t)in[i] & 0x7f, sign = ((uint32_t)in[i] & 0x80) << 24;
        float small = (float)(int32_t)a * 0x1p-9f, normal = float_of((a << 20) + (120u << 23));
        row[i] = float_of(bits_of(a < 8 ? small : normal) | sign) * scale;
    }
}

BODY pack(enum ep_format f, void *out, const float *row, int H) {
    float *scale = out;
    unsigned char *q = (unsigned char *)(scale + groups_of(H));
    if (f == EP_F32) memcpy(out, row, (size_t)H * sizeof *row);
    if (f == EP_BF16) {
        pack_bf16(out, row, H);
        if (H % 2) ((uint16_t *)out)[H] = 0;
    }
    if (f != EP_INT8 && f != EP_FP8) return;
    for (int at = 0; at < H; at += EP_GROUP, scale++) {
        int n = H - at < EP_GROUP ? H - at : EP_GROUP;
        if (f == EP_INT8) pack_int8(scale, (int8_t *)q + at, row + at, n);
        else pack_fp8(scale, q + at, row + at, n);
    }
    memset(q + H, 0, (size_t)(-H & 3)); /* no byte of an earlier frame leaves the process */
}

BODY unpack(enum ep_format f, float *row, const void *in, int H) {
    const float *scale = in;
    const unsigned char *q = (const unsigned char *)(scale + groups_of(H));
    if (f == EP_F32) memcpy(row, in, (size_t)H * sizeof *row);
    if (f == EP_BF16) unpack_bf16(row, in, H);
    if (f != EP_INT8 && f != EP_FP8) return;
    for (int at = 0; at < H; at += EP_GROUP, scale++) {
        int n = H - at < EP_GROUP ? H - at : EP_GROUP;
        if (f == EP_INT8) unpack_int8(row + at, *scale, (const int8_t *)q + at, n);
        else unpack_fp8(row + at, *scale, q + at, n);
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void pack_avx2(enum ep_format f, void *out, const float *row, int H) {
    pack(f, out, row, H);
}
__attribute__((target("avx2"))) static void unpack_avx2(enum ep_format f, float *row, const void *in, int H) {
    unpack(f, row, in, H);
}
static bool wide(void) { return __builtin_cpu_supports("avx2"); }
#else
#define pack_avx2 pack
#define unpack_avx2 unpack
static bool wide(void) { return false; }
#endif

void ep_pack(enum ep_format f, void *out, const float *row, int hidden) {
    if (wide()) pack_avx2(f, out, row, hidden);
    else pack(f, out, row, hidden);
}

void ep_unpack(enum ep_format f, float *row, const void *in, int hidden) {
    if (wide()) unpack_avx2(f, row, in, hidden);
    else unpack(f, row, in, hidden);
}
