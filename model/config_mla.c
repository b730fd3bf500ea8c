/* config_mla.c - multi-head latent attention: the ranks, and the parts of a head that know a position and that do not. */
#include "model/config_parts.h"

#include <math.h>

enum { MAX_LATENT = 2048 }; /* elements of a key as it is cached: kernels keep some queries of it on the side */

static int check_products(const struct model_config *c, struct why *why) {
    const struct mla_sizes *m = &c->mla;
    const int widest = m->nope + (m->rope > m->value ? m->rope : m->value);
    if (m->kv_rank + m->rope > MAX_LATENT)
        return fail(why, ERR_INVALID, "kv_lora_rank %d and qk_rope_head_dim %d make %d; wanted at most %d", m->kv_rank, m->rope,
                    m->kv_rank + m->rope, MAX_LATENT);
    if (c->q_heads > MAX_QUERY / (m->kv_rank + m->rope) || c->q_heads > MAX_QUERY / widest)
        return fail(why, ERR_INVALID, "num_attention_heads %d of %d elements make %lld; wanted at most %d", c->q_heads,
                    m->kv_rank + m->rope > widest ? m->kv_rank + m->rope : widest,
                    (long long)c->q_heads * (m->kv_rank + m->rope > widest ? m->kv_rank + m->rope : widest), MAX_QUERY);
    return 0;
}

int config_mla(const json_t *root, struct model_config *out, struct why *why) {
    struct mla_sizes *m = &out->mla;
    const struct {
        const char *key;
        int64_t max;
        int *out;
    } sizes[] = {{"kv_lora_rank", MAX_LATENT, &m->kv_rank},
                 {"qk_nope_head_dim", MAX_HEAD_DIM, &m->nope},
                 {"qk_rope_head_dim", MAX_HEAD_DIM, &m->rope},
                 {"v_head_dim", MAX_HEAD_DIM, &m->value}};
    int64_t heads = 0, rank = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int rc = config_need_int(root, sizes[i].key, sizes[i].max, sizes[i].out, why);
        if (rc < 0) return rc;
    }
    int rc = json_get_int(root, "q_lora_rank", 1, MAX_HIDDEN, &rank, why);
    if (rc >= 0) rc = json_get_int(root, "num_key_value_heads", 1, MAX_HEADS, &heads, why);
    if (rc < 0) return rc;
    if (heads && heads != out->q_heads)
        return fail(why, ERR_INVALID,
                    "num_key_value_heads is %lld; wanted null or num_attention_heads, %d: latents serve all heads",
                    (long long)heads, out->q_heads);
    m->q_rank = (int)rank;
    m->norm_eps = 1e-6f; /* of the norms inside attention, whatever rms_norm_eps is */
    out->kv_heads = 1;
    out->head_dim = m->nope + m->rope;
    out->attention_scale = (float)(1.0 / sqrt((double)out->head_dim));
    return check_products(out, why);
}

/* A stretched context makes scores smaller: YaRN's temperature applies to queries and keys both. */
void config_mla_scale(struct model_config *out) {
    const struct rope *r = &out->rope;
    if (r->kind != ROPE_YARN || r->mscale_all_dim <= 0) return;
    double m = rope_mscale(r->factor, r->mscale_all_dim);
    out->attention_scale = (float)(m * m / sqrt((double)out->head_dim));
}
