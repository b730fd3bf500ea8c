/* ref.h - the clear slow twin of every operation in kernels.h, one thread, plain C.
 *
 * These files are the meaning of kernels.h: the fast kernels are tested against them and share no code with them. Sums are
 * taken in double, one element after the other, and rounded to f32 once, so an error found against ref is never ref's own.
 * Shapes and aliasing are those of struct ops. */
#pragma once
#include "kernels/kernels.h"

int ref_open(struct backend **out, struct why *why);

/* The number at element i of an array of format fmt; any address of natural element alignment. */
float ref_get(const void *data, enum fmt fmt, int64_t i); /* plain formats */
float ref_weight(struct mat w, int row, int col);         /* every format */
double ref_swiglu(struct swiglu act, double g, double u); /* what joins gate and up */
/* Element e of what head g keeps for slot `slot` of a page: its key (which = 0) or value (1); latents are all in 0. */
double ref_kv(const struct kv_layer *kv, int64_t page, int slot, int g, int which, int e);
/* Of quantised matrices: in f32 and in the order that kernels/quant.h prescribes. One row through an FFN. */
void ref_quant_linear(float *y, const float *x, struct mat w, const float *bias, bool add, int T);
void ref_quant_ffn(const struct ffn *f, float *y, const float *x, int H, bool add);

void ref_embed(struct backend *b, float *out, struct mat table, const int32_t *ids, int T);
void ref_rmsnorm(struct backend *b, float *out, int64_t out_stride, const float *x, int64_t x_stride, const float *weight,
                 float eps, int T, int N);
void ref_linear(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T);
void ref_linear_blocks(struct backend *b, float *y, const float *x, struct mat w, int n, const int32_t *row,
                       const int32_t *block, int P);
void ref_rope(struct backend *b, float *x, const int32_t *pos, const float *table, int rot, bool interleaved, int T, int heads,
              int D);
void ref_clamp(struct backend *b, float *x, float limit, int64_t n);
void ref_kv_store(struct backend *b, const struct kv_layer *kv, const float *k, const float *v, const int32_t *at, int T);
void ref_attention(struct backend *b, const struct kv_layer *kv, const struct attention *a);
void ref_latent_query(struct backend *b, float *out, const float *q, const struct latent_heads *m, int T);
void ref_latent_value(struct backend *b, float *out, const float *x, const struct latent_heads *m, int T);
void ref_latent_expanded(struct backend *b, const struct kv_layer *kv, const struct attention *a,
                         const struct latent_heads *m);
void ref_ffn(struct backend *b, float *y, const float *x, const struct ffn_group *groups, int n_groups, int H);
void ref_gate_select(struct backend *b, int32_t *ids, float *weights, const float *logits, const float *sel_bias,
                     const struct gate_rule *rule, int T);
void ref_gather(struct backend *b, float *out, const float *x, const int32_t *rows, int n, int H);
void ref_combine(struct backend *b, float *y, const float *const *rows, const float *weights, int T, int k, int H);
void ref_dots(struct backend *b, float *out, int64_t stride, const float *x, const float *y, int64_t y_stride, float scale,
              int T, int N);
void ref_fuse(struct backend *b, float *weights, const float *extra, const struct fuse_rule *rule, int T, int k);
void ref_add(struct backend *b, float *y, const float *x, const float *gate, int T, int H);
void ref_logit_stats(struct backend *b, struct logit_stats *out, const float *logits, int T, int V);
void ref_weigh(struct backend *b, float *weights, uint16_t *buckets, const float *logits, float max, float inverse, int V);
