/* cpu.h - the fast backend: vector kernels for x86-64 over a thread team.
 *
 * An operation is split into tasks by rows and outputs, never along a sum, and each task calls routines of struct vec.
 * Nothing here allocates after open: what an operation needs beside its arguments lives in two scratch areas of fixed size,
 * and operations that would need more work through their rows in several rounds. */
#pragma once
#include "kernels/cpu/team.h"
#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"

/* o->isa: as backend_options have it, but "ref". "auto" falls back on ref where none can run. Errors as backend_open. */
int cpu_open(const struct backend_options *o, struct backend **out, struct why *why);

enum {
    CPU_SCRATCH_BYTES = 8 << 20,   /* of an operation: activations between the two halves of an FFN, lists of tasks */
    CPU_THREAD_BYTES = 512 << 10,  /* of each thread in a task */
    CPU_TASK_MACS = 1 << 19,       /* multiply-adds of a task at most, about: 10 to 100 us */
    CPU_SMALL_TASK_MACS = 1 << 16, /* and at least: below this a task is not worth handing to another thread */
};

struct cpu {
    struct backend base;
    const struct vec *vec;
    struct team *team;
    char *scratch, *thread_scratch; /* 64-byte aligned; owner, and thread i at i * CPU_THREAD_BYTES */
};
static inline struct cpu *cpu_of(struct backend *b) { return (struct cpu *)b; }
static inline int imin(int a, int b) { return a < b ? a : b; }
static inline int imax(int a, int b) { return a > b ? a : b; }

/* Outputs of one task of a product: `cols` outputs of `macs` multiply-adds each, one of `jobs` such products in a dispatch. As
 * even as whole register tiles allow, and small enough that every thread gets some. */
int cpu_col_block(const struct cpu *c, int cols, int64_t macs, int jobs);

/* Calls fn(arg, first, count) so that every row of 0..T-1 is in exactly one call; several threads at once when T rows of
 * `elements` are worth it. */
typedef void cpu_rows_fn(void *arg, int first, int count);
void cpu_rows(struct cpu *c, cpu_rows_fn *fn, void *arg, int T, int64_t elements);

void cpu_embed(struct backend *b, float *out, struct mat table, const int32_t *ids, int T);
void cpu_rmsnorm(struct backend *b, float *out, int64_t out_stride, const float *x, int64_t x_stride, const float *weight,
                 float eps, int T, int N);
void cpu_linear(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T);
/* Of quantised matrices (kernels/quant.h): cpu_linear and cpu_ffn come here for those. */
void cpu_quant_linear(struct cpu *c, float *y, const float *x, struct mat w, const float *bias, bool add, int T);
void cpu_quant_ffn(struct cpu *c, float *y, const float *x, const struct ffn_group *groups, int n_groups, int H);
void cpu_linear_blocks(struct backend *b, float *y, const float *x, struct mat w, int n, const int32_t *row,
                       const int32_t *block, int P);
void cpu_rope(struct backend *b, float *x, const int32_t *pos, const float *table, int rot, bool interleaved, int T, int heads,
              int D);
void cpu_clamp(struct backend *b, float *x, float limit, int64_t n);
void cpu_kv_store(struct backend *b, const struct kv_layer *kv, const float *k, const float *v, const int32_t *at, int T);
void cpu_attention(struct backend *b, const struct kv_layer *kv, const struct attention *a);
void cpu_latent_query(struct backend *b, float *out, const float *q, const struct latent_heads *m, int T);
void cpu_latent_value(struct backend *b, float *out, const float *x, const struct latent_heads *m, int T);
void cpu_latent_expanded(struct backend *b, const struct kv_layer *kv, const struct attention *a,
                         const struct latent_heads *m);
void cpu_ffn(struct backend *b, float *y, const float *x, const struct ffn_group *groups, int n_groups, int H);
void cpu_gate_select(struct backend *b, int32_t *ids, float *weights, const float *logits, const float *sel_bias,
                     const struct gate_rule *rule, int T);
void cpu_gather(struct backend *b, float *out, const float *x, const int32_t *rows, int n, int H);
void cpu_combine(struct backend *b, float *y, const float *const *rows, const float *weights, int T, int k, int H);
void cpu_dots(struct backend *b, float *out, int64_t stride, const float *x, const float *y, int64_t y_stride, float scale,
              int T, int N);
void cpu_fuse(struct backend *b, float *weights, const float *extra, const struct fuse_rule *rule, int T, int k);
void cpu_add(struct backend *b, float *y, const float *x, const float *gate, int T, int H);
void cpu_logit_stats(struct backend *b, struct logit_stats *out, const float *logits, int T, int V);
void cpu_weigh(struct backend *b, float *weights, uint16_t *buckets, const float *logits, float max, float inverse, int V);
