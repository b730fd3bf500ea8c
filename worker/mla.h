/* mla.h - multi-head latent attention (arXiv 2405.04434, 2.1) of one layer, in the absorbed form for prompt and generated
 * tokens alike: a token's cache is one row of d_c + d_r, its compressed key and value and the position's part, shared by all
 * heads.
 *
 *   c, k = RMS(W_kva x [..d_c]), RoPE(W_kva x [d_c..])              into the latent page
 *   q_n, q_r per head = W_qb RMS(W_qa x), or W_q x; q_r = RoPE(q_r)
 *   s_j = (W_UK^T q_n . c_j + q_r . k_j) * scale;  u = sum softmax(s)_j c_j;  head = W_UV u
 *
 * The naive form, for prompts alone and only when asked for, writes every key and value out:
 *   s_j = (q_n . W_UK c_j + q_r . k_j) * scale;  head = sum softmax(s)_j W_UV c_j
 * Equal in exact arithmetic, not in bits. A row's form follows from its token's place, given or generated, so chunks and
 * preemption still change nothing; but a page written while generating is another than one written from a prompt: no page
 * may be shared.
 *
 * Owner: the engine thread. Queries in latent space are wide (Q * (d_c + d_r) floats each), so rows are taken in blocks; a
 * row's result does not depend on its block. */
#pragma once
#include "worker/step_rows.h"
#include "worker/weights.h"

struct mla {
    struct backend *backend;
    const struct model_config *config;
    bool naive;              /* prompts in the naive form */
    int block;               /* rows at a time */
    float *latent;           /* [T, d_c + d_r] */
    float *low;              /* [block, q_rank] */
    float *q, *wide;         /* [block, Q, d_n + d_r]; [block, Q, d_c + d_r] */
    float *u, *heads;        /* [block, Q, d_c]; [block, Q, d_v] */
};

int  mla_init(struct mla *m, int max_tokens, struct why *why); /* after backend and config are set */
void mla_clear(struct mla *m);                                 /* one that was never set is fine */
/* x [T,H] += W_o of the heads, for T rows that are normed in `norm` [T,H]. max_pages: row length of rows->pages. */
void mla_layer(struct mla *m, const struct layer_weights *w, const struct kv_layer *kv, const float *rope, float *x,
               const float *norm, const struct step_rows *rows, int max_pages);
