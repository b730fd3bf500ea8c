/* family.h - what the model families differ in, as data: one row per model_type. Internal to model/.
 *
 * A new family of the Llama line is a new row (and perhaps a new tensor name below it), never a new branch elsewhere. */
#pragma once
#include "model/config.h"

enum family_bias {     /* biases of the attention projections */
    BIAS_KEY,          /* q, k, v and o iff attention_bias */
    BIAS_KEY_TRUE,     /* the same, but its absence means true */
    BIAS_QKV,          /* q, k and v always (or as qkv_bias says), o never */
    BIAS_KEY_QKV,      /* q, k and v iff attention_bias, o never */
    BIAS_NONE          /* never */
};
enum family_gate {     /* from logits to experts; config_gate.c */
    FAMILY_GATE_SOFTMAX,     /* over all, and what enum family_norm says */
    FAMILY_GATE_DEEPSEEK_V2, /* softmax, groups by their best, normalised or scaled */
    FAMILY_GATE_DEEPSEEK_V3, /* sigmoid, selection bias, groups by their two best, normalised, scaled */
    FAMILY_GATE_RAW,         /* the best logits, softmax over them; bias in the logits */
    FAMILY_GATE_LLAMA4,      /* sigmoid of the best logit, applied to the expert's input */
    FAMILY_GATE_MINIMAX      /* sigmoid, selection bias beside the gate, normalised */
};
enum family_window {   /* who decides on a sliding window */
    WINDOW_NEVER,
    WINDOW_LENGTH,     /* sliding_window: null or its length, for all layers */
    WINDOW_SWITCH,     /* use_sliding_window, then layer_types */
    WINDOW_SWITCH_ALL, /* the same, but all layers slide or none */
    WINDOW_LAYERS      /* layer_types, and without them every second layer from the first */
};
enum family_norm {     /* what happens to the weights of the selected experts */
    NORM_ALWAYS,       /* divided by their sum */
    NORM_KEY,          /* iff norm_topk_prob */
    NORM_RULE          /* the moe_router object says it all */
};

struct family {
    const char *model_type, *architecture;
    const char *alias;             /* another model_type, believed together with the architecture */
    double theta, eps;             /* rope_theta and rms_norm_eps when config.json has none */
    enum family_bias bias;
    enum family_window window;
    int window_default;            /* sliding_window when config.json does not have the key; null is none */
    enum qk_norm qk_norm;
    bool qk_norm_key;              /* has them iff use_qk_norm */
    bool mla;                      /* latents instead of key and value heads */
    bool kv_heads_optional;        /* absent num_key_value_heads means one per query head */
    bool clip_qkv;                 /* reads the key of that name */
    double rotary;                 /* partial_rotary_factor when config.json has none; 0: the family has no such key */
    bool rope_interleaved;
    bool yarn_beyond;              /* yarn only where max_position_embeddings exceeds the original ones, as the official code */

    bool moe;                      /* the rest is zero for dense families */
    bool sparse_step;              /* reads decoder_sparse_step and mlp_only_layers; else every layer has experts */
    const char *expert_ffn_key;
    enum family_gate gate;
    enum family_norm norm;
    int groups, best_groups;       /* n_group, topk_group when config.json has none; 0: 1 */
    double gate_scale;             /* routed_scaling_factor when config.json has none; 0: 1 */
    bool llama4;                   /* layers with chunks, without rotation, with experts as config_llama4.c reads them */
    bool wrapped;                  /* as released with its vision tower: names begin with language_model. */
    bool first_dense;              /* reads first_k_dense_replace and moe_layer_freq */
    int dense_layers;              /* first_k_dense_replace when config.json has none */
    bool shared_count;             /* the shared expert is n_shared_experts wide in experts, and named so */
    enum shared_kind shared;
    bool block_names;              /* block_sparse_moe.experts.{j}.w1 instead of mlp.experts.{j}.gate_proj */
    bool rope_object;              /* rope_scaling (or rope_parameters) must be there */
    bool clamped_swiglu;           /* reads swiglu_limit and swiglu_alpha */
    bool sinks;
    bool fused_experts; /* mlp.experts.gate_up_proj [E,H,2I], columns gate, up, gate, ..., mlp.experts.down_proj [E,I,H],
                                    * biases [E,2I] and [E,H]; or *_blocks and *_scales, not transposed (mxfp4). mlp.router */
};

const struct family *family_find(const char *model_type); /* NULL: unknown */
const struct family *family_find_alias(const char *model_type, const char *architecture);
/* All model_types in one line, for the message that refuses one. */
const char *family_list(char *buf, size_t cap);
