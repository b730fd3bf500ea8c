/* config_parts.h - the stages of reading config.json. Internal to model/.
 *
 * Each takes the parsed object and the family's row and fills its part of *out, in the order written here: later stages use
 * what earlier ones filled (config_layers: FFNs, experts and gate). 0 or ERR_* with why. */
#pragma once
#include "model/family.h"
#include "model/json_read.h"

/* Bounds. With these no product of sizes reaches 2^62, and no table sized by one of them is absurd. */
enum {
    MAX_HIDDEN = 1 << 16, MAX_VOCAB = 1 << 20, MAX_HEADS = 1024, MAX_HEAD_DIM = 1024, MAX_QUERY = 1 << 17 /* Q * D */,
    MAX_POSITIONS = 1 << 24, MAX_FFN = 1 << 18, MAX_EXPERTS = 4096, MAX_TOP_K = 256
};

int config_refuse(const json_t *root, const struct family *f, struct why *why);    /* keys that mean something we do not do */
int config_sizes(const json_t *root, const struct family *f, struct model_config *out, struct why *why);
int config_attention(const json_t *root, const struct family *f, struct model_config *out, struct why *why);
int config_mla(const json_t *root, struct model_config *out, struct why *why); /* instead of heads; config_mla.c */
void config_mla_scale(struct model_config *out); /* after RoPE */
int config_window(const json_t *root, const struct family *f, struct model_config *out, struct why *why);
int config_rope(const json_t *root, const struct family *f, struct model_config *out, struct why *why); /* config_rope.c */
int config_gate(const json_t *root, const struct family *f, struct model_config *out, struct why *why); /* E and k are set */
/* The whole model's config.json has the text model's in an object: afterwards *root is that, with what only the outer one
 * had. */
int config_llama4_unwrap(json_t **root, struct why *why);
int config_llama4_attention(const json_t *root, struct model_config *out, struct why *why);
int config_llama4_layers(const json_t *root, struct model_config *out, struct why *why); /* moe_index */
int config_groups(const json_t *router, struct gate_rule *g, struct why *why); /* "groups" of a moe_router */
int config_layers(const json_t *root, const struct family *f, struct model_config *out, struct why *why);
int config_experts(const json_t *router, struct model_config *out, struct why *why); /* what experts share and give back */
/* moe_router: the members beyond a flat gate's own, after those and num_experts, num_experts_per_tok; router.kind is set. */
int config_router(const json_t *router, struct model_config *out, struct why *why);
/* Members that any kind of router may have beside its own. */
#define CONFIG_ROUTER_ADDED                                                                                                    \
    "sel_bias", "history", "segment", "confidence", "bias_update", "serve_bias_update", "dropout", "freeze_experts",           \
        "adaptive_routing", "shared_rows", "fusion"
int config_swiglu(const json_t *root, const struct family *f, struct model_config *out, struct why *why);
int config_quant(const json_t *root, const struct family *f, struct model_config *out, struct why *why); /* after layers */
int config_tokens(const json_t *root, const json_t *generation, struct model_config *out, struct why *why);
bool config_may_refuse(const char *key); /* config_refuse knows it */
/* Names of the keys that nothing here knows and that say something, cut at cap; returns how many there are. */
int config_unknown(const json_t *root, char *text, size_t cap);
void config_note_unknown(const json_t *root); /* them, in one warning */

/* As json_get_int, but absence is an error. */
int config_need_int(const json_t *root, const char *key, int64_t max, int *out, struct why *why);

/* Refuses members of obj that `known` (ends with NULL) does not list. */
int config_closed(const json_t *obj, const char *const *known, struct why *why);
/* Sets *out to the index of the member's word in `words` (ends with NULL). */
int config_read_word(const json_t *obj, const char *key, const char *const *words, int *out, struct why *why);

/* The two files' texts, malloc'ed; generation is NULL when there is none. On an error nothing is left to free. */
int model_config_texts(const char *dir, char **config, size_t *config_len, char **generation, size_t *generation_len,
                       struct why *why);
