/* test_golden.c - logits of tiny checkpoints of every family against an independent implementation, in f32: the largest
 * difference is at most 1e-4 of the logits' standard deviation and the argmax is the same everywhere, on every kernel path,
 * with the prompt in one go, in chunks of 3 and 7, and token by token; and those forms agree among themselves to the bit.
 *
 * Then the test tests itself: every mistake of the table below, planted in config, weights or kernels, must make it fail.
 *
 * usage: test_golden [--brief] DATA_DIR [NAME]      all checkpoints of DATA_DIR, or one; brief: fewer forms, nothing planted */
#include "tests/golden/mutation.h"
#include "tests/golden/names.h"
#include "tests/golden/reference.h"

#include "base/log.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double TOLERANCE = 1e-4;
static int argmax(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* The largest difference in standard deviations; infinite when an argmax differs or a logit is not a number. */
static double distance(const struct reference *r, int p, const float *got) {
    double worst = 0;
    for (int t = 0; t < r->T[p]; t++) {
        const float *a = got + (size_t)t * (size_t)r->V, *b = r->logits[p] + (size_t)t * (size_t)r->V;
        if (argmax(a, r->V) != argmax(b, r->V)) return INFINITY;
        for (int v = 0; v < r->V; v++) {
            double d = fabs((double)a[v] - (double)b[v]) / r->std[p];
            if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
        }
    }
    return worst;
}

/* --- the mistakes --- */

static const struct ops *real; /* of the backend under mutation: the wrappers below call through it */

static void m_theta(struct model_config *c) { c->rope.theta *= 1.1; }
static void m_eps_larger(struct model_config *c) { c->norm_eps *= 10; }
static void m_eps_zero(struct model_config *c) { c->norm_eps = 0; }
static void m_attention_scale(struct model_config *c) { c->attention_scale *= 1.1f; }
static void m_qk_norm(struct model_config *c) { c->qk_norm = QK_NORM_NONE; }
static void m_clip(struct model_config *c) { c->clip_qkv = 0; }
static void m_topk_norm(struct model_config *c) {
    c->gate.norm = c->gate.norm == GATE_NORM_NONE ? GATE_NORM_SUM : GATE_NORM_NONE;
}
static void m_scale(struct model_config *c) { c->gate.scale *= 1.05f; }
static void m_k_minus(struct model_config *c) { c->gate.k--; }
static void m_score(struct model_config *c) { c->gate.score = c->gate.score == GATE_SOFTMAX ? GATE_SIGMOID : GATE_SOFTMAX; }
static void m_groups(struct model_config *c) { c->gate.group = GATE_GROUP_NONE; }
static void m_group_score(struct model_config *c) {
    c->gate.group = c->gate.group == GATE_GROUP_MAX ? GATE_GROUP_TOP2SUM : GATE_GROUP_MAX;
}
static void m_group_fill(struct model_config *c) { c->gate.group_fill = c->gate.group_fill == 0 ? -INFINITY : 0; }
static void m_gate_eps(struct model_config *c) { c->gate.norm_eps = 0; }
static void m_apply(struct model_config *c) { c->gate.apply = GATE_OUTPUT; }
static void m_chunk(struct model_config *c) { memset(c->chunk, 0, sizeof c->chunk); }
static void m_no_rope(struct model_config *c) { memset(c->no_rope, 0, sizeof c->no_rope); }
static void m_temper(struct model_config *c) { c->temper_tokens = 0; }
static void m_temper_tokens(struct model_config *c) { c->temper_tokens *= 2; }
static void m_rotary(struct model_config *c) { c->rope.dims = c->head_dim; }
static void m_shared_gate(struct model_config *c) { c->shared = SHARED_PLAIN; }
static void m_shared(struct model_config *c) { c->shared = SHARED_NONE; }
static void m_latent_norm_eps(struct model_config *c) { c->mla.norm_eps = c->norm_eps; }
static void m_latent_scale(struct model_config *c) {
    c->attention_scale *= sqrtf((float)(c->mla.nope + c->mla.rope) / (float)c->mla.nope);
}
static void m_yarn(struct model_config *c) { c->rope.kind = ROPE_PLAIN; }
static void m_yarn_ramp(struct model_config *c) { c->rope.truncate = !c->rope.truncate; }
static void m_yarn_scale(struct model_config *c) { c->attention_scale = 1 / sqrtf((float)c->head_dim); }
static void m_yarn_amplitude(struct model_config *c) { c->rope.amplitude = 1; }
static void m_window(struct model_config *c) {
    for (int l = 0; l < c->layers; l++) c->window[l] = 9;
}

static void m_fusion(struct model_config *c) { c->experts.fusion_dim = 0; }
static void m_fusion_beta(struct model_config *c) { c->experts.fusion_beta = 0; }

static void m_window_none(struct model_config *c) { memset(c->window, 0, sizeof c->window); }
static void m_window_long(struct model_config *c) {
    for (int l = 0; l < c->layers; l++) c->window[l] += c->window[l] > 0;
}
static void m_window_shifted(struct model_config *c) {
    memmove(c->window + 1, c->window, sizeof c->window - sizeof *c->window);
    c->window[0] = 0;
}

static void m_swap_gate_up(struct weights *w, struct expert_store *s) {
    int n = s->first ? s->first[s->layers] : 0;
    for (int i = 0; i < n; i++) {
        struct mat gate = s->slots[i].ffn.gate;
        s->slots[i].ffn.gate = s->slots[i].ffn.up;
        s->slots[i].ffn.up = gate;
    }
    if (!n) {
        struct mat gate = w->layer[0].dense.gate;
        w->layer[0].dense.gate = w->layer[0].dense.up;
        w->layer[0].dense.up = gate;
    }
}
static void m_expert_order(struct weights *w, struct expert_store *s) {
    (void)w;
    struct ffn first = s->slots[0].ffn;
    s->slots[0].ffn = s->slots[1].ffn;
    s->slots[1].ffn = first;
}
static void m_rows_common(struct weights *w, struct expert_store *s) {
    (void)w;
    for (int i = 0; i < s->first[s->layers]; i++) s->slots[i].common = NULL;
}
static void m_rows_own(struct weights *w, struct expert_store *s) {
    (void)w;
    for (int i = 0; i < s->first[s->layers]; i++)
        if (s->slots[i].common) s->slots[i].ffn = *s->slots[i].common;
}
static void m_rows_layer(struct weights *w, struct expert_store *s) {
    (void)w;
    for (int i = 0; i < s->first[1]; i++) s->slots[i].common = &s->common[s->levels].ffn;
}
static void m_fusion_swapped(struct weights *w, struct expert_store *s) {
    (void)s;
    struct mat q = w->layer[0].fusion_q;
    w->layer[0].fusion_q = w->layer[0].fusion_k;
    w->layer[0].fusion_k = q;
}
static void m_conf_order(struct weights *w, struct expert_store *s) {
    (void)w;
    const float *first = s->slots[0].conf;
    s->slots[0].conf = s->slots[1].conf;
    s->slots[1].conf = first;
}
static void m_no_swiglu_limit(struct weights *w, struct expert_store *s) {
    (void)w;
    for (int i = 0; i < s->first[s->layers]; i++) s->slots[i].ffn.act.limit = 1e6f;
}
static void m_swiglu_alpha(struct weights *w, struct expert_store *s) {
    (void)w;
    for (int i = 0; i < s->first[s->layers]; i++) s->slots[i].ffn.act.alpha = 1;
}
static void m_swiglu_shift(struct weights *w, struct expert_store *s) {
    (void)w;
    for (int i = 0; i < s->first[s->layers]; i++) s->slots[i].ffn.act.shift = 0;
}
static void m_expert_bias(struct weights *w, struct expert_store *s) {
    (void)w;
    for (int i = 0; i < s->first[s->layers]; i++) s->slots[i].ffn.gate_bias = s->slots[i].ffn.up_bias = NULL;
}
static void m_expert_down_bias(struct weights *w, struct expert_store *s) {
    (void)w;
    for (int i = 0; i < s->first[s->layers]; i++) s->slots[i].ffn.down_bias = NULL;
}
static void m_sinks(struct weights *w, struct expert_store *s) {
    (void)s;
    for (int l = 0; l < 2; l++) w->layer[l].sinks = NULL;
}
/* One block on; of the first row alone when it is the last. The blobs are this process's memory with ref. */
static void m_scale_block(struct weights *w, struct expert_store *s) {
    (void)w;
    for (int i = 0; i < s->first[s->layers]; i++) {
        struct mat *m = &s->slots[i].ffn.gate;
        size_t size = m->fmt == FMT_FP8 ? sizeof(float) : 1, n = mat_scale_bytes(m->fmt, m->rows, m->cols, m->block);
        memmove((char *)m->scales, (const char *)m->scales + size, n - size);
    }
}
static void m_nibbles(struct weights *w, struct expert_store *s) {
    (void)w;
    for (int i = 0; i < s->first[s->layers]; i++) {
        const struct mat *m = &s->slots[i].ffn.up;
        unsigned char *p = (unsigned char *)m->data;
        for (size_t j = 0; j < mat_bytes(m->fmt, m->rows, m->cols); j++) p[j] = (unsigned char)(p[j] << 4 | p[j] >> 4);
    }
}
static void m_scale_resident(struct weights *w, struct expert_store *s) {
    (void)s;
    struct mat *m = &w->layer[0].o;
    memmove((char *)m->scales, (const char *)m->scales + 4, mat_scale_bytes(m->fmt, m->rows, m->cols, m->block) - 4);
}
static void m_qkv_bias(struct weights *w, struct expert_store *s) {
    (void)s;
    w->layer[0].q_bias = w->layer[0].k_bias = w->layer[0].v_bias = NULL;
    w->layer[0].q_a_bias = w->layer[0].kv_a_bias = NULL;
}
static void m_router_bias(struct weights *w, struct expert_store *s) {
    for (int l = 0; l < 2; l++) w->layer[l].router_bias = NULL;
    (void)s;
}
static void m_sel_bias(struct weights *w, struct expert_store *s) {
    for (int l = 0; l < 2; l++) w->layer[l].router_sel_bias = NULL;
    (void)s;
}
static void m_qk_norm_swapped(struct weights *w, struct expert_store *s) {
    (void)s;
    const float *q = w->layer[0].q_norm;
    if (w->layer[0].q.rows != w->layer[0].k.rows) w->layer[0].q_norm += 1; /* of different lengths: shift instead */
    else w->layer[0].q_norm = w->layer[0].k_norm, w->layer[0].k_norm = q;
}
static void m_norm_input(struct weights *w, struct expert_store *s) {
    (void)s;
    w->layer[0].attn_norm = w->layer[1].attn_norm;
}
static void m_norm_post(struct weights *w, struct expert_store *s) {
    (void)s;
    w->layer[0].ffn_norm = w->layer[0].attn_norm;
}
static void m_norm_final(struct weights *w, struct expert_store *s) {
    (void)s;
    w->final_norm = w->layer[0].attn_norm;
}

static void m_latent_norm(struct weights *w, struct expert_store *s) {
    (void)s;
    w->layer[0].kv_a_norm = w->layer[1].kv_a_norm;
}
static void m_latent_query_norm(struct weights *w, struct expert_store *s) {
    (void)s;
    w->layer[0].q_a_norm = w->layer[1].q_a_norm;
}
static void m_latent_heads(struct weights *w, struct expert_store *s) {
    (void)s;
    w->layer[0].kv_b = w->layer[1].kv_b;
}
static void latent_parts(struct backend *b, float *out, const float *q, const struct latent_heads *h, int T) {
    struct latent_heads wrong = *h; /* kv_b's value rows taken for key rows */
    wrong.kv_b.data = (const char *)h->kv_b.data + (size_t)h->value * (size_t)h->kv_b.cols * fmt_bytes(h->kv_b.fmt);
    real->latent_query(b, out, q, &wrong, T);
}

static void rope_interleaved(struct backend *b, float *x, const int32_t *pos, const float *table, int rot, bool interleaved,
                             int T, int heads, int D) {
    real->rope(b, x, pos, table, rot, !interleaved, T, heads, D);
}
/* Keys are one position ahead of where they are: seen as a table shifted by one row for the call with fewer heads. */
static void rope_shifted(struct backend *b, float *x, const int32_t *pos, const float *table, int rot, bool interleaved, int T,
                         int heads, int D) {
    static _Thread_local bool key; /* calls alternate: q, then k */
    real->rope(b, x, pos, key ? table + rot : table, rot, interleaved, T, heads, D);
    key = !key;
}
static void kv_second_page_shifted(struct backend *b, const struct kv_layer *kv, const float *k, const float *v,
                                   const int32_t *at, int T) {
    int32_t moved[RUNNER_MAX_TOKENS];
    for (int t = 0; t < T; t++)
        moved[t] = at[t] % kv->page_tokens == 0 ? at[t] + 1 : at[t] % kv->page_tokens == 1 ? at[t] - 1 : at[t];
    real->kv_store(b, kv, k, v, moved, T); /* two tokens of each page exchanged */
}
static void attention_early(struct backend *b, const struct kv_layer *kv, const struct attention *a) {
    int32_t pos[RUNNER_MAX_TOKENS];
    for (int t = 0; t < a->tokens; t++) pos[t] = a->pos[t] + 1;
    struct attention wrong = *a;
    wrong.pos = pos;
    real->attention(b, kv, &wrong);
}
static void attention_late(struct backend *b, const struct kv_layer *kv, const struct attention *a) {
    int32_t pos[RUNNER_MAX_TOKENS];
    for (int t = 0; t < a->tokens; t++) pos[t] = a->pos[t] ? a->pos[t] - 1 : 0;
    struct attention wrong = *a;
    wrong.pos = pos;
    real->attention(b, kv, &wrong);
}
static void linear_no_residual(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T) {
    (void)add; /* the attention's output replaces the residual stream */
    real->linear(b, y, x, w, bias, false, T);
}
static void add_nothing(struct backend *b, float *y, const float *x, const float *gate, int T, int H) {
    (void)b, (void)y, (void)x, (void)gate, (void)T, (void)H; /* neither shared expert nor FFN reaches the stream */
}
static void embed_late(struct backend *b, float *out, struct mat table, const int32_t *ids, int T) {
    int32_t shifted[RUNNER_MAX_TOKENS];
    for (int t = 0; t < T; t++) shifted[t] = t ? ids[t - 1] : ids[0];
    real->embed(b, out, table, shifted, T);
}
static void combine_reversed(struct backend *b, float *y, const float *const *rows, const float *weights, int T, int k, int H) {
    const float *swapped[RUNNER_MAX_TOKENS * 8];
    for (int t = 0; t < T; t++)
        for (int j = 0; j < k; j++) swapped[t * k + j] = rows[t * k + k - 1 - j];
    real->combine(b, y, swapped, weights, T, k, H);
}

/* Identity experts are nobody. */
static void gate_without_identity(struct backend *b, int32_t *ids, float *weights, const float *logits, const float *sel_bias,
                             const struct gate_rule *rule, int T) {
    real->gate_select(b, ids, weights, logits, sel_bias, rule, T);
    for (int i = 0; i < T * rule->k; i++)
        if (ids[i] >= rule->experts) ids[i] = -1;
}

static void dots_unscaled(struct backend *b, float *out, int64_t stride, const float *x, const float *y, int64_t y_stride,
                          float scale, int T, int N) {
    real->dots(b, out, stride, x, y, y_stride, 1, T, N);
    (void)scale;
}
static void fuse_ungated(struct backend *b, float *weights, const float *extra, const struct fuse_rule *rule, int T, int k) {
    for (int t = 0; t < T; t++) {
        float sum = 0;
        for (int j = t * k; j < (t + 1) * k; j++) sum += weights[j];
        for (int j = t * k; j < (t + 1) * k; j++) weights[j] = sum / (float)k; /* ln w the same for all, the sum unchanged */
    }
    real->fuse(b, weights, extra, rule, T, k);
}
static void fuse_massless(struct backend *b, float *weights, const float *extra, const struct fuse_rule *rule, int T, int k) {
    real->fuse(b, weights, extra, rule, T, k);
    for (int t = 0; t < T; t++) {
        float sum = 0;
        for (int j = t * k; j < (t + 1) * k; j++) sum += weights[j];
        for (int j = t * k; j < (t + 1) * k; j++) weights[j] /= sum;
    }
}

static void o_dots(struct ops *o) { o->dots = dots_unscaled; }
static void o_fuse_gate(struct ops *o) { o->fuse = fuse_ungated; }
static void o_fuse_mass(struct ops *o) { o->fuse = fuse_massless; }
static void o_latent_parts(struct ops *o) { o->latent_query = latent_parts; }
static void o_rope_interleaved(struct ops *o) { o->rope = rope_interleaved; }
static void o_rope_shifted(struct ops *o) { o->rope = rope_shifted; }
static void o_kv_position(struct ops *o) { o->kv_store = kv_second_page_shifted; }
static void o_causal_early(struct ops *o) { o->attention = attention_early; }
static void o_causal_late(struct ops *o) { o->attention = attention_late; }
static void o_residual(struct ops *o) { o->linear = linear_no_residual; }
static void o_ffn(struct ops *o) { o->add = add_nothing; }
static void o_last_token(struct ops *o) { o->embed = embed_late; }
static void o_identity(struct ops *o) { o->gate_select = gate_without_identity; }
static void o_combine(struct ops *o) { o->combine = combine_reversed; }

static bool has_sinks(const struct model_config *c) { return c->sinks; }
static bool has_swiglu(const struct model_config *c) { return c->act.limit > 0; }
static bool has_expert_bias(const struct model_config *c) { return c->expert_bias; }
static bool has_window(const struct model_config *c) {
    bool some = false;
    for (int l = 0; l < c->layers; l++) some |= c->window[l] > 0;
    return some;
}
static bool has_blocks(const struct model_config *c) { return c->quant != FMT_COUNT; }
static bool has_mxfp4(const struct model_config *c) { return c->quant == FMT_MXFP4; }
static bool has_fp8(const struct model_config *c) { return c->quant == FMT_FP8; }
static bool any(const struct model_config *c) { return c->layers > 0; }
static bool has_moe(const struct model_config *c) { return c->moe_layers > 0; }
static bool has_moe_first(const struct model_config *c) { return c->moe_layers > 0 || c->layers > 0; }
static bool has_scores(const struct model_config *c) { return c->moe_layers > 0 && c->gate.weight == GATE_WEIGHT_SCORE; }
static bool has_rule(const struct model_config *c) { return has_moe(c) && c->router.kind == ROUTER_FLAT; }
static bool has_choice(const struct model_config *c) {
    return has_rule(c) && c->gate.k > 1 && c->gate.k == c->router.k && c->router.top_p.p <= 0;
}
static bool has_score(const struct model_config *c) { return has_scores(c) && has_rule(c); }
static bool has_sum_order(const struct model_config *c) { return has_scores(c) && c->gate.k > 1; }
static bool has_sum_choice(const struct model_config *c) {
    return has_scores(c) && has_rule(c) && c->gate.k > 1 && c->gate.score != GATE_RAW;
}
static bool has_groups(const struct model_config *c) { return c->gate.group != GATE_GROUP_NONE; }
static bool has_signed_groups(const struct model_config *c) { return has_groups(c) && c->gate_sel_bias; }
static bool has_gate_eps(const struct model_config *c) { return c->gate.norm_eps > 1e-6f; }
static bool has_identity(const struct model_config *c) { return c->gate.zero > 0; }
static bool has_input(const struct model_config *c) { return c->moe_layers > 0 && c->gate.apply == GATE_INPUT; }
static bool has_rotary(const struct model_config *c) { return c->rope.dims < c->head_dim; }
static bool has_heads(const struct model_config *c) { return !c->mla.kv_rank; }
static bool has_latents(const struct model_config *c) { return c->mla.kv_rank > 0; }
static bool has_latent_query(const struct model_config *c) { return c->mla.q_rank > 0; }
static bool has_yarn(const struct model_config *c) { return c->rope.kind == ROPE_YARN; }
static bool has_yarn_ramp(const struct model_config *c) { return has_yarn(c) && c->rope.beta_fast != c->rope.beta_slow; }
static bool has_yarn_scale(const struct model_config *c) { return has_yarn(c) && has_latents(c) && c->rope.mscale_all_dim > 0; }
static bool has_yarn_amplitude(const struct model_config *c) { return has_yarn(c) && c->rope.amplitude != 1; }
static bool has_qk_norm(const struct model_config *c) { return c->qk_norm != QK_NORM_NONE; }
static bool has_qk_weights(const struct model_config *c) { return c->qk_norm == QK_NORM_HEAD || c->qk_norm == QK_NORM_FULL; }
static bool has_chunks(const struct model_config *c) { return c->chunk[0] > 0; }
static bool has_temper(const struct model_config *c) { return c->temper_tokens > 0; }
static bool has_clip(const struct model_config *c) { return c->clip_qkv > 0; }
static bool has_shared_gate(const struct model_config *c) { return c->shared == SHARED_SIGMOID; }
static bool has_shared(const struct model_config *c) { return c->shared != SHARED_NONE; }
static bool has_qkv_bias(const struct model_config *c) { return c->qkv_bias; }
static bool has_router_bias(const struct model_config *c) { return c->gate_bias; }
static bool has_sel_bias(const struct model_config *c) { return c->gate_sel_bias; }

static bool has_fusion(const struct model_config *c) { return c->experts.fusion_dim > 0; }
static bool has_beta(const struct model_config *c) { return c->experts.fusion_beta > 0; }
static bool has_mass(const struct model_config *c) {
    return has_fusion(c) && (c->gate.norm == GATE_NORM_NONE || c->gate.scale != 1);
}
static bool has_rows(const struct model_config *c) { return c->experts.shared_rows > 0; }

static const struct mutation mutations[] = {
    {"theta", "RoPE base 10 % larger", any, {.mutate_config = m_theta}},
    {"eps_larger", "RMSNorm epsilon ten times", any, {.mutate_config = m_eps_larger}},
    {"eps_zero", "RMSNorm epsilon left out", any, {.mutate_config = m_eps_zero}},
    {"attention_scale", "attention scores 10 % too large", any, {.mutate_config = m_attention_scale}},
    {"window", "a sliding window where there is none", has_heads, {.mutate_config = m_window}},
    {"latent_norm", "norm of the wrong layer's latents", has_latents, {.mutate_weights = m_latent_norm}},
    {"latent_norm_eps", "rms_norm_eps in the norms inside attention", has_latents, {.mutate_config = m_latent_norm_eps}},
    {"latent_query_norm", "norm of the wrong layer's queries", has_latent_query, {.mutate_weights = m_latent_query_norm}},
    {"latent_heads", "kv_b of the wrong layer", has_latents, {.mutate_weights = m_latent_heads}},
    {"latent_parts", "key rows of kv_b where its value rows are", has_latents, {.mutate_ops = o_latent_parts}},
    {"latent_scale", "scores scaled by d_n instead of d_n + d_r", has_latents, {.mutate_config = m_latent_scale}},
    {"yarn", "RoPE frequencies not stretched", has_yarn, {.mutate_config = m_yarn}},
    {"yarn_ramp", "the ramp not rounded to whole pairs, or rounded", has_yarn_ramp, {.mutate_config = m_yarn_ramp}},
    {"yarn_scale", "YaRN's temperature left out of the attention's scale", has_yarn_scale, {.mutate_config = m_yarn_scale}},
    {"yarn_amplitude", "YaRN's amplitude left out", has_yarn_amplitude, {.mutate_config = m_yarn_amplitude}},
    {"qk_norm", "q/k norms left out", has_qk_norm, {.mutate_config = m_qk_norm}},
    {"qk_norm_swapped",
     "weights of the q and k norms exchanged or shifted",
     has_qk_weights,
     {.mutate_weights = m_qk_norm_swapped}},
    {"clip", "clip_qkv left out", has_clip, {.mutate_config = m_clip}},
    {"topk_norm",
     "weights of the selected experts normalised or not, the other way round",
     has_sum_choice,
     {.mutate_config = m_topk_norm}},
    {"routed_scale", "routed weights 5 % too large", has_rule, {.mutate_config = m_scale}},
    {"k_minus", "one expert less", has_choice, {.mutate_config = m_k_minus}},
    {"score_other", "sigmoid instead of softmax scores or the other way round", has_score, {.mutate_config = m_score}},
    {"shared_gate", "sigmoid gate of the shared expert left out", has_shared_gate, {.mutate_config = m_shared_gate}},
    {"shared", "shared expert left out", has_shared, {.mutate_config = m_shared}},
    {"gate_up_swapped", "gate and up projections exchanged", has_moe_first, {.mutate_weights = m_swap_gate_up}},
    {"groups", "group limit left out", has_groups, {.mutate_config = m_groups}},
    {"group_score",
     "groups scored by their best or their two best, the other way round",
     has_groups,
     {.mutate_config = m_group_score}},
    {"group_fill",
     "experts outside the chosen groups get zero or nothing, the other way round",
     has_signed_groups,
     {.mutate_config = m_group_fill}},
    {"gate_eps", "epsilon of the weights' normalisation left out", has_gate_eps, {.mutate_config = m_gate_eps}},
    {"apply", "the weight on the expert's output", has_input, {.mutate_config = m_apply}},
    {"identity", "identity experts give nothing", has_identity, {.mutate_ops = o_identity}},
    {"chunk", "attention does not keep to its chunks", has_chunks, {.mutate_config = m_chunk}},
    {"no_rope", "all layers rotated", has_temper, {.mutate_config = m_no_rope}},
    {"temper", "queries not sharpened with position", has_temper, {.mutate_config = m_temper}},
    {"temper_tokens", "queries sharpened later", has_temper, {.mutate_config = m_temper_tokens}},
    {"rotary", "the whole head rotated", has_rotary, {.mutate_config = m_rotary}},
    {"expert_order", "two experts exchanged", has_scores, {.mutate_weights = m_expert_order}},
    {"rows_common", "rows that experts share left out", has_rows, {.mutate_weights = m_rows_common}},
    {"rows_own", "the shared rows twice instead of an expert's own", has_rows, {.mutate_weights = m_rows_own}},
    {"rows_layer", "the shared rows of another layer", has_rows, {.mutate_weights = m_rows_layer}},
    {"fusion", "outputs weighed by the gate alone", has_fusion, {.mutate_config = m_fusion}},
    {"fusion_swapped", "queries and keys of the fusion exchanged", has_fusion, {.mutate_weights = m_fusion_swapped}},
    {"fusion_scale", "agreement not divided by sqrt(d)", has_fusion, {.mutate_ops = o_dots}},
    {"fusion_gate", "the gate's weights left out of the fusion", has_fusion, {.mutate_ops = o_fuse_gate}},
    {"fusion_mass", "the sum of the gate's weights left out", has_mass, {.mutate_ops = o_fuse_mass}},
    {"fusion_beta", "confidence left out of the fusion", has_beta, {.mutate_config = m_fusion_beta}},
    {"conf_order", "the confidence heads of two experts exchanged", has_beta, {.mutate_weights = m_conf_order}},
    {"bias", "biases of the attention projections left out", has_qkv_bias, {.mutate_weights = m_qkv_bias}},
    {"router_bias", "bias of the gate left out", has_router_bias, {.mutate_weights = m_router_bias}},
    {"sel_bias", "selection bias left out", has_sel_bias, {.mutate_weights = m_sel_bias}},
    {"sinks", "attention sinks left out", has_sinks, {.mutate_weights = m_sinks}},
    {"window_none", "sliding windows left out", has_window, {.mutate_config = m_window_none}},
    {"window_long", "windows of one token more", has_window, {.mutate_config = m_window_long}},
    {"window_shifted", "windows of the layer before", has_window, {.mutate_config = m_window_shifted}},
    {"swiglu_limit", "activations not clamped", has_swiglu, {.mutate_weights = m_no_swiglu_limit}},
    {"swiglu_alpha", "sigmoid of the gate itself", has_swiglu, {.mutate_weights = m_swiglu_alpha}},
    {"swiglu_shift", "up projection without its one", has_swiglu, {.mutate_weights = m_swiglu_shift}},
    {"expert_bias", "biases of gate and up left out", has_expert_bias, {.mutate_weights = m_expert_bias}},
    {"expert_down_bias", "biases of down left out", has_expert_bias, {.mutate_weights = m_expert_down_bias}},
    {"scale_block",
     "every block with the scale of the next",
     has_blocks,
     {.mutate_weights = m_scale_block, .weights = FMT_STORED}},
    {"scale_resident", "the same in the attention", has_fp8, {.mutate_weights = m_scale_resident, .weights = FMT_STORED}},
    {"nibbles", "the high nibble first", has_mxfp4, {.mutate_weights = m_nibbles, .weights = FMT_STORED}},
    {"norm_input", "input norm of the wrong layer", any, {.mutate_weights = m_norm_input}},
    {"norm_post", "input norm instead of the post-attention norm", any, {.mutate_weights = m_norm_post}},
    {"norm_final", "an input norm instead of the final norm", any, {.mutate_weights = m_norm_final}},
    {"rope_interleaved",
     "RoPE pairs 2j, 2j+1 instead of the half split, or the other way round",
     any,
     {.mutate_ops = o_rope_interleaved}},
    {"kv_rope_position", "keys rotated one position too far", any, {.mutate_ops = o_rope_shifted}},
    {"kv_position", "the first two tokens of each KV page exchanged", any, {.mutate_ops = o_kv_position}},
    {"causal_early", "a token sees one token of the future", any, {.mutate_ops = o_causal_early}},
    {"causal_late", "a token does not see itself", any, {.mutate_ops = o_causal_late}},
    {"residual_attention", "residual around the attention left out", any, {.mutate_ops = o_residual}},
    {"ffn_dropped", "the FFN's output never added", any, {.mutate_ops = o_ffn}},
    {"last_token_id", "embedding of the previous id", any, {.mutate_ops = o_last_token}},
    {"combine_order", "expert rows paired with each other's weights", has_sum_order, {.mutate_ops = o_combine}},
};
enum { MUTATIONS = sizeof mutations / sizeof *mutations };

/* --- the tests --- */

static int passed, failed;
static void report(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void report(bool ok, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("%s %d - %s\n", ok ? "ok" : "not ok", passed + failed + 1, text);
    *(ok ? &passed : &failed) += 1;
}

/* The worst distance over all prompts with the given chunking; *same tells whether the bits equal those in `whole`. */
static double run_all(struct runner *r, const struct reference *ref, int chunk, float *const *whole, bool *same) {
    double worst = 0;
    *same = true;
    for (int p = 0; p < PROMPTS; p++) {
        size_t n = (size_t)ref->T[p] * (size_t)ref->V;
        float *got = malloc(n * sizeof *got);
        if (!got || runner_logits(r, ref->ids[p], ref->T[p], chunk, got) < 0) die("the forward pass failed");
        double d = distance(ref, p, got);
        if (d > worst) worst = d;
        if (!chunk) memcpy(whole[p], got, n * sizeof *got);
        else if (memcmp(whole[p], got, n * sizeof *got)) *same = false;
        free(got);
    }
    return worst;
}

/* Block formats as they are give the bits of their expansion. */
static void test_stored(const char *name, const char *dir, const struct reference *ref, const char *isa, float *const *whole) {
    struct runner r;
    struct why why;
    bool same = false;
    struct runner_options o = {.isa = isa, .threads = 3, .weights = FMT_STORED};
    if (runner_open(&r, dir, &o, &why) >= 0) run_all(&r, ref, 5, whole, &same);
    report(same, "%s %s as stored: the same bits as expanded", name, isa);
    runner_close(&r);
}

static bool brief; /* one chunking that is not the whole, nothing planted: enough for what a sanitizer is to find */

static void test_path(const char *name, const char *dir, const struct reference *ref, const char *isa, bool naive) {
    static const int chunks[] = {0, 3, 1, 7};
    const char *form = naive ? " naive" : "";
    struct runner r;
    struct why why;
    float *whole[PROMPTS];
    struct runner_options o = {.isa = isa, .threads = 2, .weights = FMT_F32, .naive_prefill = naive};
    if (runner_open(&r, dir, &o, &why) < 0) {
        report(false, "%s %s opens: %s", name, isa, why.text);
        return;
    }
    for (int p = 0; p < PROMPTS; p++) whole[p] = malloc((size_t)ref->T[p] * (size_t)ref->V * sizeof(float));
    for (size_t i = 0; i < (brief ? 2 : sizeof chunks / sizeof *chunks); i++) {
        bool same;
        double d = run_all(&r, ref, chunks[i], whole, &same);
        report(d <= TOLERANCE, "%s %s%s chunks of %d: %.2e standard deviations", name, isa, form, chunks[i], d);
        if (chunks[i]) report(same, "%s %s%s chunks of %d: the same bits as in one go", name, isa, form, chunks[i]);
    }
    r.solo.forward.microbatches = 2;
    static const int halved[] = {6, RUNNER_MAX_TOKENS};
    for (size_t i = 0; i < (brief ? 1 : sizeof halved / sizeof *halved); i++) {
        bool same = true;
        run_all(&r, ref, halved[i], whole, &same);
        report(same, "%s %s%s in two microbatches, chunks of at most %d: the same bits", name, isa, form, halved[i]);
    }
    if (r.solo.checkpoint.config.quant != FMT_COUNT && !naive) test_stored(name, dir, ref, isa, whole);
    for (int p = 0; p < PROMPTS; p++) free(whole[p]);
    runner_close(&r);
}

static void test_mutation(const char *name, const char *dir, const struct reference *ref, const struct mutation *m) {
    struct runner r;
    struct why why;
    struct runner_options o = m->plant;
    o.isa = "ref";
    o.threads = 1;
    if (o.weights != FMT_STORED) o.weights = FMT_F32;
    if (runner_open(&r, dir, &o, &why) < 0) { /* noticed by the loader would say nothing about the logits */
        report(false, "%s opens with: %s: %s", name, m->meaning, why.text);
        runner_close(&r);
        return;
    }
    double worst = 0;
    float *got = malloc((size_t)RUNNER_MAX_TOKENS * (size_t)ref->V * sizeof *got);
    for (int p = 0; p < PROMPTS; p++) {
        if (!got || runner_logits(&r, ref->ids[p], ref->T[p], 0, got) < 0) die("the forward pass failed");
        double d = distance(ref, p, got);
        if (d > worst) worst = d;
    }
    runner_close(&r);
    free(got);
    report(worst > 3 * TOLERANCE, "%s notices: %s (%.2g)", name, m->meaning, worst);
}

static void test_mutations(const char *name, const char *dir, const struct reference *ref) {
    struct runner plain;
    struct why why;
    if (runner_open(&plain, dir, &(struct runner_options){.isa = "ref", .threads = 1}, &why) < 0) die("%s: %s", dir, why.text);
    struct model_config config = plain.solo.checkpoint.config;
    real = plain.real_ops;
    for (int i = 0; i < MUTATIONS; i++)
        if (mutations[i].applies(&config)) test_mutation(name, dir, ref, &mutations[i]);
    for (const struct mutation *m = router_mutations; m->name; m++)
        if (m->applies(&config)) test_mutation(name, dir, ref, m);
    runner_close(&plain);
}

int main(int argc, char **argv) {
    static const char *const isas[] = {"ref", "avx2", "avx512"};
    if (argc > 2 && !strcmp(argv[1], "--brief")) {
        brief = true;
        argv++;
        argc--;
    }
    if (argc != 2 && argc != 3) die("usage: test_golden [--brief] DATA_DIR [NAME]");
    static struct names all;
    log_set_level(LOG_ERROR); /* not a line for every tensor that a checkpoint has beside the model's */
    names_read(argv[1], &all);
    for (int c = 0; c < all.count; c++) {
        const char *name = all.name[c];
        if (argc == 3 && strcmp(name, argv[2])) continue;
        char dir[1024];
        void *file;
        struct reference ref = {0};
        snprintf(dir, sizeof dir, "%s/%s", argv[1], name);
        read_reference(dir, &ref, &file);
        for (int p = 0; p < PROMPTS; p++)
            if (ref.std[p] < 1)
                report(false, "%s prompt %d: standard deviation %.2f is below 1", name, p, ref.std[p]);
        for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
            struct backend *b;
            struct why why;
            if (backend_open(&(struct backend_options){.isa = isas[i], .threads = 1}, &b, &why) < 0) {
                printf("# %s is not tested here: %s\n", isas[i], why.text);
                continue;
            }
            backend_close(b);
            test_path(name, dir, &ref, isas[i], false);
            struct model_config config;
            if (model_config_read(dir, &config, &why) < 0) die("%s", why.text);
            if (has_latents(&config)) test_path(name, dir, &ref, isas[i], true);
        }
        if (!brief) test_mutations(name, dir, &ref);
        free_reference(&ref, file);
    }
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0;
}
