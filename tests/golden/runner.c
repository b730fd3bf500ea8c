/* runner.c - plants what a test wants between the pieces in which a solo worker is opened. */
#include "tests/golden/runner.h"

#include <string.h>

int runner_open(struct runner *r, const char *dir, const struct runner_options *o, struct why *why) {
    struct solo *s = &r->solo;
    const struct solo_options so = {.isa = o->isa,
                                    .threads = o->threads,
                                    .weights = o->weights,
                                    .max_rows = RUNNER_MAX_TOKENS,
                                    .context = RUNNER_MAX_TOKENS,
                                    .missing = o->missing,
                                    .n_missing = o->n_missing};
    memset(r, 0, sizeof *r);
    int rc = solo_open(s, dir, &so, why);
    if (rc < 0) return rc;
    if (o->mutate_config) o->mutate_config(&s->checkpoint.config);
    r->real_ops = s->backend->ops;
    r->ops = *r->real_ops;
    if (o->mutate_ops) o->mutate_ops(&r->ops);
    s->backend->ops = &r->ops;
    if ((rc = solo_load(s, why)) < 0) return rc;
    if (o->mutate_weights) o->mutate_weights(&s->weights, &s->store);
    rc = solo_ready(s, o->kv == FMT_F32 && fmt_plain(o->weights) ? o->weights : o->kv, why);
    s->forward.mla.naive = o->naive_prefill;
    return rc;
}

void runner_close(struct runner *r) {
    if (r->real_ops) r->solo.backend->ops = r->real_ops;
    solo_close(&r->solo);
}

int runner_logits(struct runner *r, const int32_t *ids, int T, int chunk, float *logits) {
    const size_t V = (size_t)r->solo.checkpoint.config.vocab;
    for (int first = 0; first < T; first += chunk ? chunk : T) {
        const int count = chunk && chunk < T - first ? chunk : T - first;
        int rc = solo_chunk(&r->solo, ids, first, count);
        if (rc < 0) return rc;
        memcpy(logits + (size_t)first * V, r->solo.forward.logits, (size_t)count * V * sizeof *logits);
    }
    return 0;
}
