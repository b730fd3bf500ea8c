/* vec.h - the vector routines behind the CPU's operations: what one thread does to some rows, without knowing of tasks.
 *
 * Three tables hold the same routines built for AVX2, AVX-512 and AVX-512 with VNNI; they give the same bits. Each routine's
 * result for a row (or element) is a fixed sequence of operations on that row's data alone: neighbours, tile shapes and
 * formats of the call change nothing. Rows are at element alignment only (weights may be mapped from a file). No routine reads
 * outside its rows. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/quant.h"

/* out[i, j] = x[i] . w[j] (+ bias[j]) (+ out[i, j] when add), i < rows, j < cols.
 * The dot product: 16 partial sums, lane l takes k = l, l+16, ... with one fused step each, then the tree of simd.h. */
struct products {
    float *out;
    const float *x;     /* [rows, K] */
    const void *w;      /* [cols, K] of fmt, quantised ones apart; int8: the codes */
    const float *bias;  /* [cols] or NULL */
    int64_t out_stride, x_stride, w_stride; /* elements from row to row */
    enum fmt fmt;
    int rows, cols, K;
    bool add;
    int64_t ahead; /* prefetch this many bytes after each weight; 0: the weight rows that come next */
    /* Block formats (then w_stride = K): the matrix's scales, and which of its rows w is. */
    const void *scales;
    int first, block;
};
/* Weight rows [first, first + cols) of w against `rows` rows of x; the caller adds where to and what else. */
static inline struct products products_of(struct mat w, int first, int cols, const float *x, int rows) {
    const void *rows_of_w = (const char *)w.data + (size_t)first * mat_row_bytes(w.fmt, w.cols);
    return (struct products){.x = x, .x_stride = w.cols, .w = rows_of_w,
                             .w_stride = w.cols, .fmt = w.fmt, .rows = rows, .cols = cols, .K = w.cols,
                             .scales = w.scales, .first = first, .block = w.block};
}

/* Where weights that will be wanted begin, and their scales: to have them on the way. */
struct quant_next {
    const uint8_t *w, *scales;
};
static inline struct quant_next quant_next_of(struct mat w, int row) { /* row % QUANT_PANEL == 0 */
    const size_t panel = (size_t)row / QUANT_PANEL * (size_t)quant_groups(w.cols);
    return (struct quant_next){(const uint8_t *)w.data + (size_t)row * mat_row_bytes(w.fmt, w.cols),
                               (const uint8_t *)w.scales + panel * quant_scale_bytes(w.fmt)};
}

/* The same with quantised weights, as kernels/quant.h has it: weight rows [0, cols) of panels that begin at w and scales. */
struct quant_products {
    float *out;         /* rows out_stride elements apart */
    const int8_t *x;    /* [rows, groups * 32] */
    const struct quant_group *x_groups; /* [rows, groups] */
    const uint8_t *w, *scales;
    const float *bias;  /* [cols] or NULL */
    struct quant_next then; /* what will be wanted next; w NULL: what follows */
    int64_t out_stride;
    enum fmt fmt;
    int rows, cols, groups;
    bool add;
};
/* Weight rows [first, first + cols); first % QUANT_PANEL == 0. */
static inline struct quant_products quant_products_of(struct mat w, int first, int cols) {
    const struct quant_next at = quant_next_of(w, first);
    return (struct quant_products){.w = at.w, .scales = at.scales, .fmt = w.fmt, .cols = cols, .groups = quant_groups(w.cols)};
}

/* Softmax(q k) v for some query heads that read one key/value head. Queries of one row are adjacent. */
enum { ATTEND_QUERIES = 24, ATTEND_TILE = 64 }; /* queries at a time; keys at a time at most */
enum { ATTEND_MACS = 1 << 19 };                 /* between two calls of `between` */
struct attend {
    const struct kv_layer *kv;
    const struct attention *a;
    int first_row, rows;  /* of the batch, all of one sequence */
    int first_head, heads; /* rows * heads <= ATTEND_QUERIES; all heads read key/value head g */
    int g;
    float *scratch; /* attend_scratch(D) floats */
    void (*between)(void *ctx); /* called every ATTEND_MACS or so: there may be very many keys */
    void *ctx;
};
static inline size_t attend_scratch(int D) { /* queries and sums padded to whole vectors, scores in up to two parts */
    return (size_t)ATTEND_QUERIES * (size_t)(2 * ((D + 15) / 16 * 16) + 2 * ATTEND_TILE);
}

/* out[i, j] = sum over k of x[i, k] * w[k, j], i < rows, j < cols: one fused step per k, in ascending k, from zero. */
struct transposed {
    float *out;
    const float *x; /* [rows, K] */
    const void *w;  /* [K, cols] of fmt */
    int64_t out_stride, x_stride, w_stride;
    enum fmt fmt;
    int rows, cols, K;
};

struct vec {
    void (*products)(const struct products *p);
    void (*quant_products)(const struct quant_products *p);
    void (*quantise)(int8_t *q, struct quant_group *groups, const float *x, int n); /* q padded to whole groups */
    void (*transposed)(const struct transposed *p);
    void (*attend)(const struct attend *a);
    void (*silu_mul)(float *gate, const float *up, int64_t n);                  /* gate = silu(gate) * up */
    void (*swiglu)(float *gate, const float *up, struct swiglu act, int64_t n); /* gate = act(gate, up); act.limit > 0 */
    void (*rmsnorm)(float *out, const float *x, const float *weight, float eps, int N);
    void (*rope)(float *head, const float *cos_sin, int half);                 /* one head of one row: i and i + half */
    void (*rope_pairs)(float *head, const float *cos_sin, int half);           /* 2i and 2i + 1 */
    void (*widen)(float *out, const void *in, enum fmt fmt, int64_t n);        /* of int8 the codes */
    void (*narrow)(void *out, enum fmt fmt, const float *in, int64_t n);       /* nearest even; not int8 */
    float (*narrow_int8)(int8_t *out, const float *in, int n);                 /* returns the scale, as struct kv_layer says */
    void (*clamp)(float *x, float limit, int64_t n);
    void (*axpy)(float *y, float factor, const float *x, int64_t n);           /* y += factor * x, fused */
    void (*combine)(float *y, const float *const *rows, const float *weights, int k, int H);
    void (*softmax)(float *out, const float *x, int n);                        /* out may be x; n >= 1 */
    void (*sigmoid)(float *out, const float *x, int n);
    int  (*argmax)(const float *x, int n);                     /* lowest index of the largest; NaN never wins; -1 if all NaN */
    float (*sum_exp)(const float *x, float max, int n);                        /* of exp(x - max) */
    void (*weigh)(float *weights, uint16_t *buckets, const float *logits, float max, float inverse, int n);
};

extern const struct vec vec_avx2, vec_avx512, vec_avx512vnni;
