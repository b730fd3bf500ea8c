/* trace.h - records of a home's routing decisions: filled by the engine thread as layers run, sent by the control thread.
 *
 * A step's rows go into one block, which already has the form that files have (proto/trace.h). Blocks are few and fixed; when
 * all are under way, or a step has more rows than a block holds, rows are counted as lost: recording never makes a step wait.
 * Owner: the engine thread; a block on its way belongs to the control thread until trace_give_back. */
#pragma once
#include "base/ring.h"
#include "proto/trace.h"
#include "worker/gating.h"

enum { TRACE_BLOCKS = 4, TRACE_BLOCK_BYTES = 1 << 20 };

struct trace_block {
    uint8_t *bytes; /* [TRACE_BLOCK_BYTES] */
    size_t len;     /* a whole ROWS chunk */
    uint32_t rows;  /* in it */
};

struct trace {
    const struct model_config *config;
    struct trace_block blocks[TRACE_BLOCKS];
    struct ring free; /* of pointers to blocks */
    struct trace_block *now;
    int column[MODEL_MAX_LAYERS]; /* MoE layer -> its place in a row, -1: not recorded */
    int columns, rows;            /* of the step under way */
    size_t row_bytes;
    uint32_t lost;          /* rows of this step that no block had room for */
    int width;              /* of the first level: W or the widest choice of a hierarchical router */
    float *scores, *logits; /* [width], [max_tokens, width] host scratch */
};

int trace_init(struct trace *t, const struct model_config *c, int max_tokens,
               struct why *why); /* a dense model has nothing to record */
void trace_clear(struct trace *t);
/* layers: bit i of the bytes: MoE layer i is recorded; n = 0: nothing is. */
void trace_begin(struct trace *t, const uint8_t *layers, int n, int worker, uint64_t step, const struct step_rows *rows);
/* What g decided for rows first .. first + T - 1 of the step, in MoE layer `moe_index`. */
void trace_layer(struct trace *t, int moe_index, const struct gating *g, int first, int T);
struct trace_block *trace_end(struct trace *t);               /* the block to send, or NULL */
void trace_give_back(struct trace *t, struct trace_block *b); /* control thread */

/* How certain a gate was, from its logits z [n] (a hierarchical one's first level): entropy in nats of its distribution, the
 * softmax of the logits or the scores as shares of their sum, and 1 - entropy / ln n. p [n] is scratch. A router with a
 * confidence rule says it itself. */
void trace_judge(const float *z, int n, enum gate_score score, float *p, float *entropy, float *confidence);
