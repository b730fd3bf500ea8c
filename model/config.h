/* config.h - what a checkpoint is, read from its config.json: the one place that knows families by name.
 *
 * Every family is turned into the same description (sizes, attention flags, gate rule, tensor names); nothing else in Cadre
 * asks for a model name. A config that names an unknown architecture, has absurd or missing sizes, or sets a key that changes
 * semantics and that Cadre does not implement is refused, with the key, the value and what would be accepted.
 * Borrow-only plain data after reading; any thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "kernels/router_rule.h"
#include "model/rope.h"

enum { MODEL_MAX_LAYERS = 512, MODEL_MAX_EOS = 8 };

enum qk_norm { QK_NORM_NONE, QK_NORM_HEAD, QK_NORM_FULL, QK_NORM_L2 };
/* per head over D (Qwen3); over the whole vector (OLMoE); per head without weights, after RoPE and only with it (Llama-4) */
enum shared_kind { SHARED_NONE, SHARED_PLAIN, SHARED_SIGMOID }; /* SIGMOID: times sigmoid(w_s . x) (Qwen2-MoE) */

/* What the routed experts of a layer have in common and what they give back beside their rows. All zero: nothing.
 * Levels: experts are of one level, or of several with different shapes (two_stage); each level has its own common rows. */
struct expert_rule {
    int shared_rows;               /* C < I: the first neurons of every expert of a level are the same ones, stored once */
    /* d: outputs are weighed by their agreement with the token too (config_experts.c); 0 = not */
    int fusion_dim;
    float fusion_beta;             /* exponent of an expert's confidence in that; 0 = none */
    bool confidence;               /* every expert judges its own output: c = sigmoid(conf . o) */
};

/* Multi-head latent attention. kv_rank 0: the model has ordinary heads. */
struct mla_sizes {
    int q_rank;                    /* of the queries' low-rank projection; 0: a plain one */
    int kv_rank;                   /* d_c: what keys and values of a token are compressed to */
    int nope, rope, value;         /* per head: d_n and d_r elements of a query, d_v of a value */
    float norm_eps;                /* of the norms of both projections */
};

struct model_config {
    char family[32];               /* model_type */
    int hidden, layers, vocab;     /* H, L, V */
    int q_heads, kv_heads, head_dim; /* Q, G, D; with latents Q, 1, d_n + d_r */
    struct mla_sizes mla;
    int max_positions;
    float norm_eps;
    struct rope rope;
    float attention_scale;         /* D^-1/2, and YaRN's temperature with latents */
    enum qk_norm qk_norm;
    bool qkv_bias, o_bias;
    bool sinks;                    /* a logit per query head without a value (struct attention) */
    float clip_qkv;                /* 0 = none */
    bool tied_embeddings;          /* lm_head is embed_tokens */

    int window[MODEL_MAX_LAYERS];  /* layer -> its sliding window in tokens, 0 = none */
    int chunk[MODEL_MAX_LAYERS];   /* layer -> length of the chunks that attention keeps to, 0 = none */
    bool no_rope[MODEL_MAX_LAYERS]; /* layers whose queries and keys are not rotated; there queries are multiplied by */
    int temper_tokens;             /* 1 + temper_scale * ln(1 + floor((position + 1) / temper_tokens)); 0: they are not */
    float temper_scale;

    int dense_ffn;                 /* I of dense layers; 0 when there are none */
    int expert_ffn;                /* I of an expert; 0 for a dense model */
    int shared_ffn;                /* width of the shared expert, 0 = none */
    enum shared_kind shared;
    struct swiglu act;             /* of every FFN */
    bool expert_bias;              /* biases in the experts */
    bool gate_bias, gate_sel_bias; /* tensors beside the gate's weight */
    struct gate_rule gate;         /* experts = 0 for a dense model; k: the most pairs a token can have */
    struct router_rule router;     /* what goes beyond a flat gate */
    struct expert_rule experts;
    int moe_layers;                /* number of layers with experts */
    int16_t moe_index[MODEL_MAX_LAYERS]; /* layer -> 0.. among MoE layers, or -1 for a dense one */

    int bos, eos[MODEL_MAX_EOS], n_eos; /* bos -1 = none; eos from config.json and generation_config.json together */
    enum fmt stored;               /* of matrices that are not quantised: torch_dtype, until checkpoint_open sees them */
    enum fmt quant;                /* FMT_FP8, FMT_MXFP4: what quantization_config says; FMT_COUNT: nothing is quantised */
    int quant_block;               /* of fp8 */
};

/* What a pack's config.json calls expert_ffn where the model it was made of had more. */
#define CONFIG_KEPT_NEURONS "expert_neurons_kept"

int model_config_read(const char *dir, struct model_config *out, struct why *why);
/* From text, for fuzzing: config.json and generation_config.json (may be NULL). */
int model_config_parse(const char *json, size_t len, const char *generation_json, size_t generation_len,
                       struct model_config *out, struct why *why);

/* Names of this family's tensors, so that nobody else spells one. Writes "model.layers.3.mlp.experts.7.up_proj.weight". */
enum tensor_role {
    T_EMBED, T_FINAL_NORM, T_LM_HEAD,
    T_GRU_IN, T_GRU_IH, T_GRU_HH, T_GRU_IH_BIAS, T_GRU_HH_BIAS,
    T_ATTN_NORM, T_FFN_NORM,                        /* per layer from here on */
    T_Q, T_K, T_V, T_O, T_Q_BIAS, T_K_BIAS, T_V_BIAS, T_O_BIAS, T_Q_NORM, T_K_NORM, T_SINKS,
    T_Q_A, T_Q_A_BIAS, T_Q_A_NORM, T_Q_B, T_KV_A, T_KV_A_BIAS, T_KV_A_NORM, T_KV_B, /* latents */
    T_DENSE_GATE, T_DENSE_UP, T_DENSE_DOWN,
    T_ROUTER, T_ROUTER_BIAS, T_ROUTER_SEL_BIAS,     /* of the first level, where there are more (router_rule.h) */
    T_ROUTER_L1, T_ROUTER_L2, T_ROUTER_HISTORY,
    T_EXPERT_GATE, T_EXPERT_UP, T_EXPERT_DOWN, T_EXPERT_GATE_BIAS, T_EXPERT_UP_BIAS, T_EXPERT_DOWN_BIAS,
    T_EXPERT_CONF,                                  /* per expert; a low-rank one has no up (struct ffn) */
    T_COMMON_GATE, T_COMMON_UP, T_COMMON_DOWN,      /* per level: the rows that its experts share */
    T_FUSION_Q, T_FUSION_K,
    T_SHARED_GATE, T_SHARED_UP, T_SHARED_DOWN, T_SHARED_SCALE,
    T_ROLE_COUNT
};
struct tensor_want {               /* what must be on disk */
    char name[160];
    int rows, cols;                /* [rows, cols]; cols 0 = a vector of `rows` */
    /* On disk it may be part of a larger tensor: element (r, c) is number first + r * row_step + c * col_step of it. */
    int dims;
    int64_t shape[4];
    int64_t first, row_step, col_step;
    int blocks;                    /* not 0: may also stand as [blocks, rows / blocks, cols] */
    /* mxfp4: bytes of two elements, the last two dimensions being [cols / 32, 16]; scales beside */
    bool packed;
};
/* false: this model has no such tensor (e.g. T_Q_BIAS without biases, T_EXPERT_UP in a dense layer). */
bool model_tensor(const struct model_config *c, enum tensor_role role, int layer, int expert, struct tensor_want *out);
/* What all names begin with: "" unless the model is part of a larger one. */
const char *model_tensor_prefix(const struct model_config *c);
/* How many tensors a role has in a layer: one, or one per expert or level; `expert` above counts them. Not all need exist. */
int model_tensor_count(const struct model_config *c, enum tensor_role role);
/* held where placed */
static inline bool tensor_in_blob(enum tensor_role r) {
    return r >= T_EXPERT_GATE && r <= T_COMMON_DOWN;
}
/* The matrix that makes logits, which may be the embedding. */
bool model_is_output(const struct model_config *c, enum tensor_role role);
/* The format in which a tensor is held where `wish` is asked for. q8 and q4: the matrices of attention and of all FFNs in
 * it; the embedding and the output's matrix q8 (a pack may have the latter in it, too: pack.h), kv_b bf16,
 * all else f32. FMT_STORED: for an expert's matrix what quantization_config says, else config.stored; matrices outside of
 * blobs need the checkpoint (checkpoint_format). */
enum fmt model_format(const struct model_config *c, enum tensor_role role, enum fmt wish);
bool model_keeps_f32(enum tensor_role role); /* outside of blobs: what routes or weighs, whatever format is asked for */
bool model_may_be_fp8(enum tensor_role role); /* matrices that published fp8 checkpoints have in that format */
int model_levels(const struct model_config *c);                 /* of experts; 0 for a dense model */
int model_expert_level(const struct model_config *c, int expert);
/* That of keys and values beside weights held as `weights`. wish: what fmt_parse_kv gave; for "auto" the same, for FMT_STORED
 * that of the checkpoint's unquantised tensors, beside quantised weights bf16. */
enum fmt model_kv_format(const struct model_config *c, enum fmt wish, enum fmt weights);
