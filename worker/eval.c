/* eval.c - windows of a text through solo workers, and what their logits say of it. */
#include "worker/eval.h"

#include <math.h>
#include <stdlib.h>

#include "base/clk.h"
#include "worker/solo.h"

enum { CHUNK = 128 }; /* rows whose logits are held */

struct eval {
    struct solo solo;
    struct eval_score score;
};

int eval_open(const char *dir, const struct eval_options *o, struct eval **out, struct why *why) {
    struct solo_options so = {.isa = o->isa, .threads = o->threads, .max_rows = CHUNK, .context = o->window};
    *out = calloc(1, sizeof **out);
    if (!*out) return fail(why, ERR_NOMEM, "out of memory");
    struct solo *s = &(*out)->solo;
    int rc = solo_open(s, dir, &so, why);
    if (rc >= 0) rc = checkpoint_weights(&s->checkpoint, o->weights, &s->options.weights, why);
    const int kv = fmt_parse_kv(o->kv);
    if (rc >= 0 && kv < 0) rc = fail(why, ERR_INVALID, "kv %s: wanted auto, f32, bf16, f16 or int8", o->kv);
    if (rc >= 0 && (o->window < 2 || o->window > s->checkpoint.config.max_positions))
        rc = fail(why, ERR_INVALID, "a window of %d tokens: %s takes 2 to %d", o->window, dir,
                  s->checkpoint.config.max_positions);
    if (rc >= 0) rc = solo_load(s, why);
    if (rc >= 0) rc = solo_ready(s, model_kv_format(&s->checkpoint.config, (enum fmt)kv, s->options.weights), why);
    if (rc >= 0) return 0;
    eval_close(*out);
    *out = NULL;
    return rc;
}

void eval_close(struct eval *e) {
    if (!e) return;
    solo_close(&e->solo);
    free(e);
}

int eval_vocab(const struct eval *e) { return e->solo.checkpoint.config.vocab; }
const char *eval_weights(const struct eval *e) { return fmt_name(e->solo.options.weights); }
const char *eval_kv(const struct eval *e) { return fmt_name(e->solo.kv.layer[0].fmt); }
const struct eval_score *eval_score(const struct eval *e) { return &e->score; }

void eval_size(const struct eval *e, struct eval_size *out) {
    const struct model_config *c = &e->solo.checkpoint.config;
    struct model_sizes sizes;
    model_sizes(c, &sizes);
    *out = (struct eval_size){.params = sizes.params_total,
                              .bytes = e->solo.weights.bytes + e->solo.store.bytes,
                              .expert_params = sizes.params_total - sizes.resident_params,
                              .expert_bytes = e->solo.store.bytes};
}

/* Over all of a row's distribution, p the first model's. */
static double divergence(const float *p, const struct logit_stats *ps, const float *q, const struct logit_stats *qs, int V) {
    double sum = 0;
    const float shift = qs->lse - ps->lse;
    for (int i = 0; i < V; i++) sum += (double)(expf(p[i] - ps->lse) * (p[i] - q[i] + shift));
    return sum;
}

/* Row t of both, whose next token is `next`. */
static void score_row(struct eval *e, const struct eval *first, int t, int32_t next) {
    const struct forward *mine = &e->solo.forward, *its = &first->solo.forward;
    const int V = eval_vocab(e);
    const float *q = mine->logits + (size_t)t * (size_t)V, *p = its->logits + (size_t)t * (size_t)V;
    const struct logit_stats *qs = &mine->stats[t], *ps = &its->stats[t];
    struct eval_score *s = &e->score;
    const double nll = (double)(qs->lse - q[next]), apart = nll - (double)(ps->lse - p[next]);
    s->tokens++;
    s->right += qs->argmax == next;
    s->agreed += qs->argmax == ps->argmax;
    s->nll += nll;
    s->nll_squares += nll * nll;
    s->apart += apart;
    s->apart_squares += apart * apart;
    if (e != first) s->divergence += divergence(p, ps, q, qs, V);
}

int eval_window(struct eval *const *e, int models, const int32_t *ids, int n, struct why *why) {
    for (int at = 0; at < n - 1; at += CHUNK) {
        const int count = n - 1 - at < CHUNK ? n - 1 - at : CHUNK; /* nothing is asked of the last token */
        for (int m = 0; m < models; m++) {
            const int64_t started_us = clk_now_us();
            int rc = solo_chunk(&e[m]->solo, ids, at, count);
            if (rc < 0) return fail(why, rc, "the forward pass of %s weights: %s", eval_weights(e[m]), status_text(rc));
            e[m]->score.us += clk_now_us() - started_us;
            for (int t = 0; t < count; t++) score_row(e[m], e[0], t, ids[at + t + 1]);
        }
    }
    return 0;
}
