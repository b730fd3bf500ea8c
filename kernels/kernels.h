/* kernels.h - the list of operations: math on one device. Knows no network, no request, no model name.
 *
 * A backend is a table of functions ("ref", "avx2", "avx512"; later "cuda" from a plugin) over buffers it allocated and a
 * stream. The CPU's stream is a thread team: calls return when done; others may only enqueue, and `sync` waits.
 *
 * What every implementation keeps:
 *  - Batch invariance: the result for one row has the same bits however many rows are computed with it, in whatever order,
 *    on however many threads. So: one fixed K-loop order per output element, no split that depends on T or on threads.
 *  - Attention visits keys in pages at absolute multiples of the page size, in ascending order, in prefill and decode alike.
 *  - Outputs never alias inputs unless a line here says so. Zero rows are legal everywhere.
 *  - Arguments are ours, not the network's: a violated precondition is a BUG, not an error.
 * Shapes: T tokens (rows), H hidden, N outputs, K inputs of a product, E experts, k experts per token, V vocabulary,
 * Q query heads, G key/value heads, D head dimension. All activations are f32, row-major, rows contiguous unless a stride
 * says else.
 * Owner: the thread that opened the backend calls everything. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Number formats. f32 and bf16 ("plain") hold anything; f16 and int8 hold keys and values alone, the others weight matrices
 * alone.
 * Block formats, as checkpoints have them: a weight is a small number times the scale of its block, the product rounded to f32,
 * whoever computes it; so they give the bits that their expansion to f32 gives.
 *   fp8    e4m3 (1-4-3, bias 7, NaN but no infinity); one f32 per block x block square, those at the edges cut off
 *   mxfp4  e2m1, two to a byte, low nibble first; one e8m0 byte s, 2^(s-127), per 32 of a row (OCP Microscaling 1.0)
 * Quantised formats, q8 and q4, made from others as a model is loaded (kernels/quant.h): products are taken in integers, with
 * the activations rounded to int8 too.
 *   f16    what is larger than 65504 becomes that
 *   int8   -127..127, with an f32 scale that struct kv_layer says where to find */
enum fmt { FMT_F32, FMT_BF16, FMT_FP8, FMT_MXFP4, FMT_Q8, FMT_Q4, FMT_F16, FMT_INT8, FMT_COUNT,
           FMT_PLAIN = FMT_FP8, FMT_QUANT = FMT_Q8, FMT_QUANT_END = FMT_F16, FMT_STORED = FMT_COUNT };
enum { MXFP4_BLOCK = 32 };
/* FMT_STORED is a wish, not a format. Of weights: each tensor as the checkpoint has it (model_format); of keys and values:
 * what goes with the weights (model_kv_format). */
static inline bool fmt_plain(enum fmt f) { return f < FMT_PLAIN; }
static inline bool fmt_quant(enum fmt f) { return f == FMT_Q8 || f == FMT_Q4; }
static inline bool fmt_wish(enum fmt f) { return fmt_plain(f) || fmt_quant(f) || f == FMT_STORED; } /* what --weights may say */
static inline bool fmt_kv(enum fmt f) { return fmt_plain(f) || f == FMT_F16 || f == FMT_INT8; }
size_t      fmt_bytes(enum fmt f);           /* per element of a plain format; BUG else */
const char *fmt_name(enum fmt f);            /* "f32" */
int         fmt_parse(const char *name);     /* what fmt_wish takes, or ERR_INVALID */
int         fmt_parse_kv(const char *name);  /* what fmt_kv takes; "auto": FMT_STORED; or ERR_INVALID */
float       bf16_to_f32(uint16_t b);
uint16_t    bf16_from_f32(float f);          /* round to nearest even; NaN stays NaN */
float       f16_to_f32(uint16_t h);
uint16_t    f16_from_f32(float f);           /* the same; beyond +-65504, infinity too, those */

float       e4m3_to_f32(uint8_t b);          /* one number of fp8 */
float       e2m1_to_f32(unsigned nibble);    /* one number of mxfp4, of the low four bits */
float       e8m0_to_f32(uint8_t s);          /* its scale; 255 is NaN */

/* A weight matrix as nn.Linear stores it: [rows = N outputs, cols = K inputs], row-major, rows contiguous; or, of a quantised
 * format, in panels (kernels/quant.h). Borrowed. */
struct mat {
    const void *data;   /* device memory */
    enum fmt fmt;
    int rows, cols;     /* mxfp4: cols % 32 == 0 */
    const void *scales; /* device memory; NULL for plain formats. fp8: f32 [ceil(rows / block), ceil(cols / block)], 4-byte
                         * aligned; mxfp4: u8 [rows, cols / 32]; q8, q4: kernels/quant.h */
    int block;          /* fp8: a multiple of 16 */
};
size_t mat_row_bytes(enum fmt f, int cols); /* from row to row; quantised: a sixteenth of from panel to panel */
size_t mat_bytes(enum fmt f, int rows, int cols);                   /* of data */
size_t mat_scale_bytes(enum fmt f, int rows, int cols, int block);  /* of scales */
/* A matrix held in one piece: data, then at the next multiple of 64 its scales. */
size_t mat_held_bytes(enum fmt f, int rows, int cols, int block);
size_t mat_scales_at(enum fmt f, int rows, int cols);
struct mat mat_held(const void *piece, enum fmt f, int rows, int cols, int block);

/* How a flat gate turns logits into (expert, weight) pairs, docs/MODELS.md:
 * score -> selection bias -> group rule -> select -> weights -> normalise -> scale -> apply. Filled from config.json by model/.
 * The gate scores W = E + zero experts, of which the last `zero` have no weights: they give back their input (LongCat,
 * MoE++). */
enum gate_score { GATE_SOFTMAX, GATE_SIGMOID, GATE_SQRTSOFTPLUS /* sqrt(ln(1 + e^z)) */, GATE_RAW };
enum gate_weight { GATE_WEIGHT_SCORE, GATE_WEIGHT_ONE }; /* ONE: every selected expert counts fully (sliced dense FFNs) */
enum gate_norm { GATE_NORM_NONE, GATE_NORM_SUM, GATE_NORM_SOFTMAX };
enum gate_apply { GATE_OUTPUT, GATE_INPUT };             /* the weight multiplies F(x), or x before F (Llama-4) */
enum gate_group { GATE_GROUP_NONE, GATE_GROUP_MAX, GATE_GROUP_TOP2SUM }; /* a group's score: its best, or its two best added */
enum { GATE_MAX_GROUPS = 64 };
struct gate_rule {
    enum gate_score score;    /* over all W logits */
    enum gate_weight weight;  /* from the unbiased score of the selected */
    enum gate_norm norm;      /* over the selected */
    float norm_eps;           /* added to the sum of GATE_NORM_SUM */
    float scale;              /* multiplies the final weights */
    int experts, k;           /* E, 1 <= k <= W */
    int zero;                 /* identity experts, ids E .. W - 1 */
    enum gate_apply apply;
    /* Experts in `groups` equal groups of neighbours; only those of the best topk_group groups (equal ones by lower number)
     * stay in the choice. group_fill -INFINITY: the others are never chosen (the authors' code); 0: their score for the choice
     * is zero, so they win over negative biased scores (transformers). */
    enum gate_group group;
    int groups, topk_group;   /* groups divides E, zero is 0; k experts fit into topk_group groups */
    float group_fill;
};
static inline int gate_width(const struct gate_rule *r) { return r->experts + r->zero; } /* W: rows of the gate's matrix */

/* What joins the two halves of a gated FFN. All zero: silu(g) * u. Else, with g clamped to at most limit and u to +-limit:
 * g * sigmoid(alpha * g) * (u + shift) (GPT-OSS: 7, 1.702, 1). */
struct swiglu {
    float limit, alpha, shift; /* limit > 0 unless all are zero */
};
/* One expert or dense FFN: y = down(act(gate x, up x)). gate, up [I,H]; down [H,I]; biases f32, each may be NULL.
 * up.data NULL: y = down(gate x), nothing between the factors: a low-rank expert, gate [r,H] and down [H,r]. */
struct ffn {
    struct mat gate, up, down;
    const float *gate_bias, *up_bias, *down_bias; /* [I] [I] [H] */
    struct swiglu act;
};
struct ffn_group {        /* rows [first, first + count) of x and y go through *weights */
    const struct ffn *weights;
    int first, count;
    bool add;             /* y += instead of y = */
};

/* KV pages of one layer, kv_page_bytes from one to the next. A page holds page_tokens keys then page_tokens values, each
 * [G, D] per token:
 *   key(p, i)   = page p + i * G * D elements of fmt
 *   value(p, i) = page p + (page_tokens + i) * G * D
 * Latent pages (MLA) hold keys alone, and the first `latent` elements of a key are its value; G = 1.
 * After its elements an int8 page has scales, f32 [2, G, page_tokens] from kv_scales_at on: those of keys, then those of
 * values; in latent pages of the first `latent` elements of a key, then of the rest, whose sizes have nothing to do with each
 * other. A number is code * scale; the scale is 1/127 of the largest magnitude that shares it, NaN where that is no number. */
struct kv_layer {
    void *base;
    enum fmt fmt;                     /* that fmt_kv takes */
    int page_tokens, heads, head_dim; /* page_tokens, G, D */
    int latent;                       /* 0: values of their own; else 1..D */
};
static inline int kv_value_dim(const struct kv_layer *kv) { return kv->latent ? kv->latent : kv->head_dim; }
static inline int64_t kv_page_elements(const struct kv_layer *kv) {
    return (int64_t)(kv->latent ? 1 : 2) * kv->page_tokens * kv->heads * kv->head_dim;
}
size_t kv_row_bytes(const struct kv_layer *kv);  /* of one head's key */
size_t kv_scales_at(const struct kv_layer *kv);  /* int8: of a page's bytes */
size_t kv_page_bytes(const struct kv_layer *kv);

/* The heads of multi-head latent attention (arXiv 2405.04434, 2.1). Per head h, kv_b [heads * (nope + value), rank] has `nope`
 * rows W_UK, which make a key of a latent, then `value` rows W_UV, which make a value. kv_b is f32 or bf16. */
struct latent_heads {
    struct mat kv_b;
    int heads, nope, rope, value; /* Q; elements of a key without and with a position; of a value. rank is kv_b.cols */
};

struct attention {
    const float *q;           /* [T, Q, D], roped */
    float *out;               /* [T, Q, value dim], which is D but for latent pages */
    int tokens, q_heads;      /* T, Q; Q % G == 0, query head h reads kv head h / (Q / G) */
    float scale;
    int window;               /* keys older than window are not seen: pos - key_pos < window; 0 = all */
    const int32_t *pos;       /* [T] position of the row; it sees keys 0..pos. Host-visible */
    const int32_t *seq;       /* [T] row of `pages` it belongs to. Host-visible */
    const int32_t *pages;     /* [S, max_pages] page numbers in order of position. Host-visible */
    int max_pages;
    const float *sinks;       /* [Q] or NULL: one more logit per head, that takes its share of the softmax and has no value */
    int chunk;                /* keys of earlier chunks are not seen: pos / chunk == key_pos / chunk; 0 = one chunk */
};

/* How the weights of a token's experts change by what these say of their outputs (struct ops, fuse). Columns of `extra`. */
struct fuse_rule {
    int extra;       /* X: floats beside each row */
    int score, conf; /* columns: agreement with the token; logit of the expert's confidence (read where beta > 0) */
    float beta;      /* exponent of the confidence, >= 0 */
};

struct logit_stats { /* of one row of logits */
    float max, lse;  /* largest logit; log of the sum of exp(logit) over the row */
    int32_t argmax;  /* lowest index among equals */
};
enum { WEIGH_BUCKETS = 512, WEIGH_PER_NAT = 16 }; /* so the last bucket begins 32 nats below the best */

enum mem_kind { MEM_DEVICE, MEM_HOST_VISIBLE }; /* device-only, or readable and writable by host code after sync */

struct backend; /* opaque state: device, stream, thread team */
struct ops {
    const char *name; /* part of the numeric class */

    /* Memory. Zeroed, 64-byte aligned; NULL when out of memory. */
    void *(*alloc)(struct backend *b, size_t bytes, enum mem_kind kind);
    void (*release)(struct backend *b, void *p); /* NULL is fine */
    void (*upload)(struct backend *b, void *dst, const void *src_host, size_t bytes);
    void (*download)(struct backend *b, void *dst_host, const void *src, size_t bytes);
    void (*sync)(struct backend *b);
    /* Host memory that this device can read where it is: the pointer to use in a mat; NULL when it must be uploaded. May be a
     * NULL function: never. The memory stays the caller's and must stay readable. */
    const void *(*adopt)(struct backend *b, const void *host, size_t bytes);

    /* out[t] = table[ids[t]] as f32. table [V,H], plain or quantised; ids [T] in 0..V-1, host-visible. */
    void (*embed)(struct backend *b, float *out, struct mat table, const int32_t *ids, int T);
    /* out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight; rows of N, x and out with their own row strides (elements).
     * out may be x. weight f32 [N]. */
    void (*rmsnorm)(struct backend *b, float *out, int64_t out_stride, const float *x, int64_t x_stride, const float *weight,
                    float eps, int T, int N);
    /* y[t] = W x[t] (+ bias) (+ y[t] when add). y [T,N], x [T,K], bias f32 [N] or NULL. */
    void (*linear)(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T);
    /* Chosen rows times chosen blocks of `n` outputs: y[p] = W[block[p] * n .. + n) x[row[p]], p < P. y [P,n]; n divides
     * w.rows; row, block [P] in any order, repeated or not, host-visible; w of a plain format. The bits that linear gives. */
    void (*linear_blocks)(struct backend *b, float *y, const float *x, struct mat w, int n, const int32_t *row,
                          const int32_t *block, int P);
    /* Rotates pairs (i, i + rot/2), or (2i, 2i + 1) when interleaved, of the first `rot` elements of each head, in place.
     * Heads are D elements apart, rows heads * D. table [positions, rot/2, 2] = cos, sin; pos [T] host-visible. */
    void (*rope)(struct backend *b, float *x, const int32_t *pos, const float *table, int rot, bool interleaved, int T,
                 int heads, int D);
    void (*clamp)(struct backend *b, float *x, float limit, int64_t n); /* to [-limit, limit], in place */
    /* Stores k, v [T, G, D] at (page, slot): at[t] = page * page_tokens + slot. at [T] host-visible; all distinct. v is not
     * read for latent pages. */
    void (*kv_store)(struct backend *b, const struct kv_layer *kv, const float *k, const float *v, const int32_t *at, int T);
    void (*attention)(struct backend *b, const struct kv_layer *kv, const struct attention *a);
    /* The absorbed form of MLA: queries that meet latents directly. out [T, Q, rank + rope]: per head W_UK^T times the first
     * `nope` elements of q [T, Q, nope + rope], then its last `rope` elements as they are. */
    void (*latent_query)(struct backend *b, float *out, const float *q, const struct latent_heads *h, int T);
    /* The naive form, for many rows of one sequence: keys and values of all latents are expanded, once per block of rows.
     * a->q [T, Q, nope + rope], a->out [T, Q, value]; no window, no sinks. Other roundings than the absorbed form. */
    void (*latent_expanded)(struct backend *b, const struct kv_layer *kv, const struct attention *a,
                            const struct latent_heads *h);
    /* out [T, Q, value] = per head W_UV times x [T, Q, rank]. */
    void (*latent_value)(struct backend *b, float *out, const float *x, const struct latent_heads *h, int T);
    /* Groups do not overlap; rows in no group are left untouched. x, y [rows, H]. Scratch is the backend's. */
    void (*ffn)(struct backend *b, float *y, const float *x, const struct ffn_group *groups, int n_groups, int H);
    /* logits [T,W] -> ids, weights [T,k], score descending (biased score where there is a selection bias), equal scores by
     * lower id. Where the choice depends on the order of logits alone (no bias, no sums or fills of groups) the logits
     * themselves are compared, so rounding a score cannot make a tie. NaN counts as the lowest: k different experts come out
     * whatever goes in. A normalised weight is a number even so: a chosen score of -infinity or NaN has no part in the sum and
     * weight 0, and where the sum (with norm_eps) is 0 all weights are 0. WEIGHT_ONE ignores norm. sel_bias f32 [W] or NULL.
     * ids and weights host-visible. Who takes them must also take -1 with weight 0: "no expert here",
     * from gates that choose fewer than k. */
    void (*gate_select)(struct backend *b, int32_t *ids, float *weights, const float *logits, const float *sel_bias,
                        const struct gate_rule *rule, int T);
    /* out[i] = x[rows[i]]; rows host-visible [n]. */
    void (*gather)(struct backend *b, float *out, const float *x, const int32_t *rows, int n, int H);
    /* y[t] = sum over j = 0..k-1, in this order, f32, of weights[t,j] * rows[t*k + j][0..H). rows: pointers, host-visible. */
    void (*combine)(struct backend *b, float *y, const float *const *rows, const float *weights, int T, int k, int H);
    /* out[t * stride] = scale * (x[t] . y[t]); x [T,N], y rows y_stride elements apart (0: the same one for all). */
    void (*dots)(struct backend *b, float *out, int64_t stride, const float *x, const float *y, int64_t y_stride, float scale,
                 int T, int N);
    /* weights [T,k] := (sum of w) * softmax over j of (score_j + ln w_j + beta * ln sigmoid(conf_j)), in place, from extra
     * [T,k,X]; both host-visible. Weights of 0 stay 0 and their extras are not read; none is negative. k <= 256. */
    void (*fuse)(struct backend *b, float *weights, const float *extra, const struct fuse_rule *rule, int T, int k);
    /* y += x, or y[t] += sigmoid(gate[t]) * x[t] when gate [T] is given. */
    void (*add)(struct backend *b, float *y, const float *x, const float *gate, int T, int H);
    void (*logit_stats)(struct backend *b, struct logit_stats *out, const float *logits, int T, int V); /* out host-visible */
    /* What the tokens of a row weigh when one is drawn, in host memory. Of below = (max - logit) * inverse, >= 0 or no number:
     * weights e^-below, to an ulp or two; 0 from 87 on, where f32 has no normal number, and for what is no number; buckets
     * below * WEIGH_PER_NAT, rounded down; the last one for what is further or no number. No step is fused, and every
     * implementation takes those of ref: so they give the same bits, and no library decides which token comes. */
    void (*weigh)(struct backend *b, float *weights, uint16_t *buckets, const float *logits, float max, float inverse, int V);

    void (*close)(struct backend *b); /* for backend_close alone */
};

struct backend_options {
    const char *isa; /* "auto", "ref", "avx2", "avx512", "avx512bw" */
    int threads;     /* size of the team, >= 1; the caller is one of them */
};
struct backend_hook {
    void (*fn)(void *ctx); /* NULL: nothing */
    void *ctx;
};
/* For how long the owner computed, or waited for its team, without a call of `between`: by the clock, so it is in there when
 * the system took the core away meanwhile. Of operations that are split into tasks; ref splits none. */
enum { BACKEND_TASK_US = 200 }; /* what a task should take at most: nothing else moves meanwhile */
struct backend_tasks {
    uint64_t n, over; /* such stretches; of these, longer than BACKEND_TASK_US */
    uint64_t longest_us;
};
/* The table every caller goes through: ops of the chosen implementation. */
struct backend {
    const struct ops *ops;
    struct backend_hook between; /* called by the owner now and then while an operation computes: between its tasks and, where
                                  * one takes long, inside it. It must not call the backend */
    struct backend_tasks tasks;  /* since the owner set it to zero, if it ever did */
    int threads;
    uint64_t allocated; /* bytes ever asked of alloc: what a start takes is the difference before and after it */
};

/* "auto" takes the best implementation this processor can run and all but "ref" give the same bits as each other, of quantised
 * linear also those of "ref". "avx512" takes VNNI where there is one, "avx512bw" never (for tests). "ref" uses one thread
 * whatever is asked. ERR_INVALID: unknown name or threads < 1; ERR_UNSUPPORTED: this processor or build lacks it. */
int  backend_open(const struct backend_options *o, struct backend **out, struct why *why);
/* A device that has no memory and computes nothing: alloc, release, copies, sync and adopt alone exist; device memory must not
 * be touched, copies move nothing. Whoever allocates from it learns from `allocated` what it would take. */
int backend_open_count(struct backend **out, struct why *why);
void backend_close(struct backend *b); /* buffers of alloc must have been released; NULL is fine */
