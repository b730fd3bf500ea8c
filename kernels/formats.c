/* formats.c - number formats: sizes, names, and single numbers. Bulk conversions are the backends' and model/convert's. */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "kernels/kernels.h"
#include "kernels/quant.h"

static const char *const names[FMT_COUNT + 1] = {
    [FMT_F32] = "f32", [FMT_BF16] = "bf16", [FMT_FP8] = "fp8",   [FMT_MXFP4] = "mxfp4",  [FMT_Q8] = "q8",
    [FMT_Q4] = "q4",   [FMT_F16] = "f16",   [FMT_INT8] = "int8", [FMT_STORED] = "stored"};

size_t fmt_bytes(enum fmt f) {
    if (!fmt_plain(f)) BUG("bytes per element of format %d, which has none", (int)f);
    return f == FMT_F32 ? 4 : 2;
}

const char *fmt_name(enum fmt f) { return f >= 0 && f <= FMT_STORED ? names[f] : "?"; }

int fmt_parse(const char *name) {
    for (int f = 0; f <= FMT_STORED; f++) {
        if (fmt_wish((enum fmt)f) && !strcmp(name, names[f])) return f;
    }
    return ERR_INVALID;
}

int fmt_parse_kv(const char *name) {
    for (int f = 0; f < FMT_COUNT; f++) {
        if (fmt_kv((enum fmt)f) && !strcmp(name, names[f])) return f;
    }
    return strcmp(name, "auto") ? ERR_INVALID : FMT_STORED;
}

static size_t blocks(int n, int block) { return ((size_t)n + (size_t)block - 1) / (size_t)block; }

size_t mat_row_bytes(enum fmt f, int cols) {
    if (f == FMT_MXFP4) return (size_t)cols / 2;
    if (fmt_quant(f)) return blocks(cols, QUANT_GROUP) * QUANT_GROUP / (f == FMT_Q4 ? 2 : 1);
    return (size_t)cols * (f == FMT_FP8 ? 1 : fmt_bytes(f));
}

size_t mat_bytes(enum fmt f, int rows, int cols) {
    return (fmt_quant(f) ? blocks(rows, QUANT_PANEL) * QUANT_PANEL : (size_t)rows) * mat_row_bytes(f, cols);
}

size_t mat_scale_bytes(enum fmt f, int rows, int cols, int block) {
    if (f == FMT_FP8) return blocks(rows, block) * blocks(cols, block) * sizeof(float);
    if (fmt_quant(f)) return blocks(rows, QUANT_PANEL) * blocks(cols, QUANT_GROUP) * quant_scale_bytes(f);
    return f == FMT_MXFP4 ? (size_t)rows * ((size_t)cols / MXFP4_BLOCK) : 0;
}

size_t mat_scales_at(enum fmt f, int rows, int cols) { return (mat_bytes(f, rows, cols) + 63) / 64 * 64; }

size_t mat_held_bytes(enum fmt f, int rows, int cols, int block) {
    if (fmt_plain(f)) return mat_bytes(f, rows, cols);
    return mat_scales_at(f, rows, cols) + mat_scale_bytes(f, rows, cols, block);
}

struct mat mat_held(const void *piece, enum fmt f, int rows, int cols, int block) {
    const void *scales = fmt_plain(f) ? NULL : (const char *)piece + mat_scales_at(f, rows, cols);
    return (struct mat){piece, f, rows, cols, scales, block};
}

size_t kv_row_bytes(const struct kv_layer *kv) {
    const size_t one = kv->fmt == FMT_F32 ? 4 : kv->fmt == FMT_INT8 ? 1 : 2;
    return (size_t)kv->head_dim * one;
}

static size_t kv_elements_bytes(const struct kv_layer *kv) {
    return kv_row_bytes(kv) * (size_t)kv->heads * (size_t)kv->page_tokens * (kv->latent ? 1 : 2);
}

enum { LINE = 64 };
size_t kv_scales_at(const struct kv_layer *kv) { return (kv_elements_bytes(kv) + LINE - 1) / LINE * LINE; }

size_t kv_page_bytes(const struct kv_layer *kv) {
    if (kv->fmt != FMT_INT8) return kv_elements_bytes(kv);
    const size_t scales = 2 * sizeof(float) * (size_t)kv->heads * (size_t)kv->page_tokens;
    return kv_scales_at(kv) + (scales + LINE - 1) / LINE * LINE;
}

static float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float bf16_to_f32(uint16_t b) { return from_bits((uint32_t)b << 16); }

uint16_t bf16_from_f32(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    bool nan = (bits & 0x7fffffff) > 0x7f800000;
    if (nan) return (uint16_t)(bits >> 16 | 0x40); /* made quiet: rounding could turn it into infinity */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float f16_to_f32(uint16_t h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    float magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
                      : exponent     ? ldexpf((float)(1024 + mantissa), exponent - 25)
                                     : ldexpf((float)mantissa, -24);
    return h & 0x8000 ? -magnitude : magnitude;
}

uint16_t f16_from_f32(float f) {
    const uint16_t sign = signbit(f) ? 0x8000 : 0;
    const float size = fabsf(f), most = 65504;
    if (isnan(f)) return sign | 0x7e00;
    if (size >= most) return sign | 0x7bff;
    if (size < 0x1p-14f) return sign | (uint16_t)lrintf(size * 0x1p24f); /* 1024 of these make the least normal number */
    int exponent;
    const long digits = lrintf(frexpf(size, &exponent) * 2048); /* 1024..2048: one more carries into the exponent */
    return sign | (uint16_t)(((exponent + 13) << 10) + digits);
}

float e4m3_to_f32(uint8_t b) {
    int exponent = b >> 3 & 15, mantissa = b & 7;
    float magnitude = exponent == 15 && mantissa == 7 ? NAN
                      : exponent                      ? ldexpf((float)(8 + mantissa), exponent - 10)
                                                      : ldexpf((float)mantissa, -9);
    return b & 0x80 ? -magnitude : magnitude;
}

float e2m1_to_f32(unsigned nibble) {
    static const float magnitude[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    return nibble & 8 ? -magnitude[nibble & 7] : magnitude[nibble & 7];
}

float e8m0_to_f32(uint8_t s) { return s == 255 ? NAN : ldexpf(1, s - 127); }
