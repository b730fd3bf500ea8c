/* weights.h - what every worker holds whole: embeddings, attention, norms, gates, dense and shared FFNs.
 *
 * Matrices are used in place from the mapped checkpoint where the device can read them there and the format is the wanted one,
 * so that workers of one host share those pages; everything else is converted into one's own memory. Vectors are f32.
 * Gate matrices are always f32: routing decisions are worth it. Owner: the engine thread; read-only after open. */
#pragma once
#include "kernels/kernels.h"
#include "model/checkpoint.h"
#include "worker/load.h"

struct layer_weights {
    const float *attn_norm, *ffn_norm;              /* [H] */
    struct mat q, k, v, o;                          /* [Q*D,H] [G*D,H] [G*D,H] [H,Q*D] */
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* NULL without */
    const float *sinks;                             /* [Q] or NULL */
    const float *q_norm, *k_norm;                   /* NULL, [D], or [Q*D] and [G*D] */
    /* latents (mla.h): [q_rank,H] [Q*(d_n+d_r),q_rank] [d_c+d_r,H]; kernels.h */
    struct mat q_a, q_b, kv_a, kv_b;
    const float *q_a_bias, *kv_a_bias;              /* NULL without */
    const float *q_a_norm, *kv_a_norm;              /* [q_rank] [d_c] */
    struct ffn dense;                               /* dense layers; data NULL otherwise */
    struct mat router;                              /* [W,H] f32, of the first level */
    struct mat router_inner[2];                     /* of the others (kernels/router_rule.h), f32; data NULL without */
    struct mat router_history;                      /* [W,dim] f32 */
    const struct router_gru *gru;                   /* NULL without */
    const float *router_bias, *router_sel_bias;     /* [W] or NULL */
    struct ffn shared;                              /* data NULL without */
    struct mat shared_scale;                        /* [1,H], data NULL without */
    struct mat fusion_q, fusion_k;                  /* [d,H] f32, data NULL without */
};

struct router_gru { /* one for all layers; f32 */
    struct mat in, ih, hh;            /* [d,H] [3d,d] [3d,d] */
    const float *ih_bias, *hh_bias;   /* [3d] */
};

struct weights {
    struct backend *backend;
    struct mat embed, lm_head;   /* [V,H]; the same matrix when tied */
    const float *final_norm;     /* [H] */
    struct layer_weights *layer; /* [L] */
    struct router_gru gru;       /* data NULL without; layers point at it, so this struct stays where it is */
    const float *rope;           /* [max_context, rope.dims/2, 2] cos, sin */
    void **owned;                /* device allocations */
    int n_owned, cap_owned;
    size_t bytes;        /* of the checkpoint's tensors: own memory plus mapped */
    size_t mapped_bytes; /* used where they are on disk: workers of one host share these pages */
};

/* `c` must outlive the weights (mapped tensors). ERR_CORRUPT: a pack's tensor does not match its sum, and is named.
 * ERR_CANCELLED: it was stopped. */
int weights_open(struct weights *w, struct backend *b, const struct checkpoint *c, enum fmt fmt, int max_context,
                 struct load *load, struct why *why);
/* About what weights_open counts into progress: gates are f32 whatever fmt is. */
size_t weights_bytes(const struct checkpoint *c, enum fmt fmt);
void weights_close(struct weights *w);
