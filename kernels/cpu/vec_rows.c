/* vec_rows.c - routines that pass once or twice over a row: norms, rotations, copies between formats, weighted sums,
 * exponentials. Elements are independent except where a sum is named; those use 16 lanes and the tree of simd.h. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_list.h"

void ISA(silu_mul)(float *gate, const float *up, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        int left = n - i < 16 ? (int)(n - i) : 16;
        struct v16 g = v16_load_first(gate + i, left), u = v16_load_first(up + i, left);
        struct v16 silu = v16_div(g, v16_add(v16_set(1), v16_exp(v16_sub(v16_zero(), g))));
        v16_store_first(gate + i, left, v16_mul(silu, u));
    }
}

void ISA(swiglu)(float *gate, const float *up, struct swiglu act, int64_t n) {
    struct v16 limit = v16_set(act.limit), low = v16_set(-act.limit), alpha = v16_set(act.alpha), shift = v16_set(act.shift);
    for (int64_t i = 0; i < n; i += 16) {
        int left = n - i < 16 ? (int)(n - i) : 16;
        struct v16 g = v16_min(limit, v16_load_first(gate + i, left)), u = v16_load_first(up + i, left);
        u = v16_max(low, v16_min(limit, u)); /* a NaN stays one: min and max return their second operand for it */
        v16_store_first(gate + i, left, v16_mul(v16_mul(g, v16_sigmoid(v16_mul(alpha, g))), v16_add(u, shift)));
    }
}

void ISA(rmsnorm)(float *out, const float *x, const float *weight, float eps, int N) {
    struct v16 squares = v16_zero();
    for (int i = 0; i < N; i += 16) {
        struct v16 v = v16_load_first(x + i, N - i);
        squares = v16_fma(v, v, squares);
    }
    struct v16 inv = v16_set(1 / sqrtf(v16_sum(squares) / (float)N + eps));
    for (int i = 0; i < N; i += 16) {
        struct v16 v = v16_mul(v16_load_first(x + i, N - i), inv);
        v16_store_first(out + i, N - i, v16_mul(v, v16_load_first(weight + i, N - i)));
    }
}

/* Pair i: elements i and i + half. Both ways of writing it below do the same two operations per element. */
void ISA(rope)(float *head, const float *cos_sin, int half) {
    float *lo = head, *hi = head + half;
    int i = 0;
    for (; i + 16 <= half; i += 16) {
        struct v16 c, s, a = v16_load(lo + i), b = v16_load(hi + i);
        v16_load_pairs(cos_sin + 2 * i, &c, &s);
        v16_store(lo + i, v16_fnma(b, s, v16_mul(a, c)));
        v16_store(hi + i, v16_fma(a, s, v16_mul(b, c)));
    }
    for (; i < half; i++) {
        float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], a = lo[i], b = hi[i];
        lo[i] = fmaf(-b, s, a * c);
        hi[i] = fmaf(a, s, b * c);
    }
}

/* The same for elements 2i and 2i + 1. */
void ISA(rope_pairs)(float *head, const float *cos_sin, int half) {
    int i = 0;
    for (; i + 16 <= half; i += 16) {
        struct v16 c, s, a, b;
        v16_load_pairs(head + 2 * i, &a, &b);
        v16_load_pairs(cos_sin + 2 * i, &c, &s);
        v16_store_pairs(head + 2 * i, v16_fnma(b, s, v16_mul(a, c)), v16_fma(a, s, v16_mul(b, c)));
    }
    for (; i < half; i++) {
        float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = fmaf(-b, s, a * c);
        head[2 * i + 1] = fmaf(a, s, b * c);
    }
}

INLINE void widen_from(float *out, const char *in, const enum fmt f, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) v16_store(out + i, v16_load_fmt(f, in + bytes_of_kv(f, i)));
    if (i < n) v16_store_first(out + i, (int)(n - i), v16_load_fmt_first(f, in + bytes_of_kv(f, i), (int)(n - i)));
}

void ISA(widen)(float *out, const void *in, enum fmt fmt, int64_t n) {
    if (fmt == FMT_F32) {
        memcpy(out, in, (size_t)n * sizeof *out);
        return;
    }
    switch (fmt) {
    case FMT_F16: widen_from(out, in, FMT_F16, n); break;
    case FMT_INT8: widen_from(out, in, FMT_INT8, n); break;
    default: widen_from(out, in, FMT_BF16, n);
    }
}

INLINE __m256i halves(struct v16 a, const enum fmt f) { return f == FMT_F16 ? v16_to_f16(a) : v16_to_bf16(a); }

INLINE void narrow_to(uint16_t *out, const enum fmt f, const float *in, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) _mm256_storeu_si256((__m256i *)(out + i), halves(v16_load(in + i), f));
    if (i < n) u16_store_first(out + i, (int)(n - i), halves(v16_load_first(in + i, (int)(n - i)), f));
}

void ISA(narrow)(void *out, enum fmt fmt, const float *in, int64_t n) {
    if (fmt == FMT_F32) {
        memcpy(out, in, (size_t)n * sizeof *in);
        return;
    }
    if (fmt == FMT_F16) narrow_to(out, FMT_F16, in, n);
    else narrow_to(out, FMT_BF16, in, n);
}

void ISA(clamp)(float *x, float limit, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        int left = n - i < 16 ? (int)(n - i) : 16;
        struct v16 v = v16_load_first(x + i, left);
        v16_store_first(x + i, left, v16_min(v16_set(limit), v16_max(v16_set(-limit), v)));
    }
}

void ISA(axpy)(float *y, float factor, const float *x, int64_t n) {
    struct v16 f = v16_set(factor);
    for (int64_t i = 0; i < n; i += 16) {
        int left = n - i < 16 ? (int)(n - i) : 16;
        v16_store_first(y + i, left, v16_fma(f, v16_load_first(x + i, left), v16_load_first(y + i, left)));
    }
}

void ISA(combine)(float *y, const float *const *rows, const float *weights, int k, int H) {
    for (int i = 0; i < H; i += 16) {
        struct v16 sum = v16_zero();
        for (int j = 0; j < k; j++) sum = v16_fma(v16_set(weights[j]), v16_load_first(rows[j] + i, H - i), sum);
        v16_store_first(y + i, H - i, sum);
    }
}

/* Lowest index among equals: each lane keeps its first, and the lowest of the lanes that hold the maximum wins. */
int ISA(argmax)(const float *x, int n) {
    struct v16 best = v16_set(-INFINITY);
    int block[16], lowest = -1;
    for (int l = 0; l < 16; l++) block[l] = -1;
    for (int i = 0; i < n; i += 16) {
        struct v16 v = v16_load_first(x + i, n - i);
        if (n - i < 16) v = v16_pick(m16_first(n - i), v, v16_set(-INFINITY));
        struct m16 more = v16_less(best, v);
        uint32_t bits = m16_bits(more);
        best = v16_pick(more, v, best);
        for (; bits; bits &= bits - 1) block[__builtin_ctz(bits)] = i;
    }
    uint32_t winners = v16_equal_bits(best, v16_set(v16_largest(best)));
    for (; winners; winners &= winners - 1) {
        int l = __builtin_ctz(winners);
        if (block[l] >= 0 && (lowest < 0 || block[l] + l < lowest)) lowest = block[l] + l;
    }
    for (int i = 0; lowest < 0 && i < n; i++) { /* nothing above -inf: the first that is a number */
        if (!isnan(x[i])) lowest = i;
    }
    return lowest;
}

float ISA(sum_exp)(const float *x, float max, int n) {
    struct v16 m = v16_set(max), sum = v16_zero();
    int i = 0;
    for (; i + 16 <= n; i += 16) sum = v16_add(sum, v16_exp(v16_sub(v16_load(x + i), m)));
    if (i < n) sum = v16_add(sum, v16_pick(m16_first(n - i), v16_exp(v16_sub(v16_load_first(x + i, n - i), m)), v16_zero()));
    return v16_sum(sum);
}

/* The steps of ref_weigh: its exponential has other constants than v16_exp, and fuses nothing. */
void ISA(weigh)(float *weights, uint16_t *buckets, const float *logits, float max, float inverse, int n) {
    const float coefficient[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                                 1.6666665459e-1f, 5.0000001201e-1f};
    const struct v16 shift = v16_set(12582912.0f), last = v16_set(WEIGH_BUCKETS - 1);
    for (int i = 0; i < n; i += 16) {
        const int left = n - i;
        const struct v16 below = v16_mul(v16_sub(v16_set(max), v16_load_first(logits + i, left)), v16_set(inverse));
        const struct m16 near = v16_less(below, v16_set(87));
        const struct v16 x = v16_pick(near, v16_sub(v16_zero(), below), v16_zero());
        const struct v16 power = v16_sub(v16_add(v16_mul(x, v16_set(1.44269504f)), shift), shift);
        struct v16 r = v16_sub(x, v16_mul(power, v16_set(0.693359375f))), p = v16_set(coefficient[0]);
        r = v16_add(r, v16_mul(power, v16_set(2.12194440e-4f)));
        for (int c = 1; c < 6; c++) p = v16_add(v16_mul(p, r), v16_set(coefficient[c]));
        p = v16_add(v16_add(v16_mul(v16_mul(p, r), r), r), v16_set(1));
        v16_store_first(weights + i, left, v16_pick(near, v16_mul(p, v16_pow2(power)), v16_zero()));
        const struct v16 bucket = v16_min(v16_mul(below, v16_set(WEIGH_PER_NAT)), last);
        if (left >= 16) _mm256_storeu_si256((__m256i *)(buckets + i), v16_to_u16(bucket));
        else u16_store_first(buckets + i, left, v16_to_u16(bucket));
    }
}

void ISA(softmax)(float *out, const float *x, int n) {
    int top = ISA(argmax)(x, n);
    struct v16 m = v16_set(top < 0 ? NAN : x[top]), sum = v16_zero();
    for (int i = 0; i < n; i += 16) {
        struct v16 e = v16_exp(v16_sub(v16_load_first(x + i, n - i), m));
        v16_store_first(out + i, n - i, e);
        sum = v16_add(sum, n - i >= 16 ? e : v16_pick(m16_first(n - i), e, v16_zero()));
    }
    struct v16 total = v16_set(v16_sum(sum));
    for (int i = 0; i < n; i += 16) v16_store_first(out + i, n - i, v16_div(v16_load_first(out + i, n - i), total));
}

void ISA(sigmoid)(float *out, const float *x, int n) {
    for (int i = 0; i < n; i += 16) v16_store_first(out + i, n - i, v16_sigmoid(v16_load_first(x + i, n - i)));
}
