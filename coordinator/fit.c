/* fit.c - sums; the answer names the largest part, because that is what the operator can change. */
#include "coordinator/fit.h"

#include <stdio.h>

struct size_text {
    char text[24];
};
static struct size_text size_of(uint64_t bytes) {
    struct size_text t;
    bool gib = bytes >= UINT64_C(1) << 30;
    snprintf(t.text, sizeof t.text, "%.2f %s", (double)bytes / (gib ? 1 << 30 : 1 << 20), gib ? "GiB" : "MiB");
    return t;
}

void fit_worker(const struct fit_plan *p, int worker, struct fit_bytes *out) {
    struct model_sizes s;
    model_sizes(p->config, &s);
    uint64_t elem = fmt_bytes(p->weights);
    *out = (struct fit_bytes){.experts = s.expert_params * (uint64_t)p->slots[worker] * elem,
                              .resident = s.resident_params * elem,
                              .kv = s.kv_elements_per_token * (uint64_t)p->kv_tokens * elem,
                              .mapped = p->config->stored == p->weights};
}

uint64_t fit_total(const struct fit_bytes *b) { return b->experts + b->resident + b->kv; }

static int does_not_fit(const char *who, const struct fit_bytes *b, uint64_t need, uint64_t have, const struct fit_plan *p,
                        struct why *why) {
    const char *advice = b->kv > b->experts && b->kv > b->resident ? "a smaller --kv-tokens or --max-context"
                         : p->weights == FMT_F32                   ? "--weights bf16 or more workers"
                                                                   : "more workers or hosts with more memory";
    return fail(why, ERR_EXHAUSTED,
                "the model does not fit: %s needs %s (per worker: experts %s, other weights %s, KV %s), has %s; use %s", who,
                size_of(need).text, size_of(b->experts).text, size_of(b->resident).text, size_of(b->kv).text,
                size_of(have).text, advice);
}

int fit_check(const struct fit_plan *p, uint64_t memory, uint64_t available, struct why *why) {
    uint64_t sum = 0, largest = 0;
    struct fit_bytes worst = {0};
    for (int w = 0; w < p->workers; w++) {
        struct fit_bytes b;
        fit_worker(p, w, &b);
        if (fit_total(&b) > largest) largest = fit_total(&b), worst = b;
        sum += b.experts + b.kv + (b.mapped && w ? 0 : b.resident);
        if (memory && fit_total(&b) > memory) {
            char who[32];
            snprintf(who, sizeof who, "worker %d", w);
            return does_not_fit(who, &b, fit_total(&b), memory, p, why);
        }
    }
    if (available && sum > available) return does_not_fit("this host", &worst, sum, available, p, why);
    return 0;
}
