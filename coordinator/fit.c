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

/* Of what is largest, and can be smaller. */
static const char *advice_for(const struct worker_bytes *b, struct fit_formats is) {
    const uint64_t step = b->buffers + b->exchange;
    if (b->kv > b->experts && b->kv > b->resident && b->kv > step)
        return is.kv == FMT_INT8 ? "a smaller --kv-tokens or --max-context"
                                 : "--kv int8, a smaller --kv-tokens or --max-context";
    if (step > b->experts && step > b->resident) return "smaller --step-tokens";
    if (is.weights == FMT_F32) return "--weights bf16, q8 or q4, or more workers";
    if (is.weights == FMT_BF16) return "--weights q8 or q4, more workers or hosts with more memory";
    return "more workers or hosts with more memory";
}

static int does_not_fit(const char *who, const struct worker_bytes *b, uint64_t need, uint64_t have, struct fit_formats is,
                        struct why *why) {
    return fail(
        why, ERR_EXHAUSTED,
        "the model does not fit: %s needs %s (per worker: experts %s, other weights %s, KV %s, buffers %s), has %s; use %s",
        who, size_of(need).text, size_of(b->experts).text, size_of(b->resident).text, size_of(b->kv).text,
        size_of(b->buffers + b->exchange).text, size_of(have).text, advice_for(b, is));
}

int fit_check(const struct worker_bytes *b, int workers, struct fit_formats is, const uint64_t *memory, uint64_t available,
              struct why *why) {
    uint64_t sum = 0, shared = 0;
    int worst = 0;
    for (int w = 0; w < workers; w++) {
        uint64_t total = worker_bytes_total(&b[w]);
        if (total > worker_bytes_total(&b[worst])) worst = w;
        if (b[w].mapped > shared) shared = b[w].mapped;
        sum += total - b[w].mapped;
        if (memory[w] && total > memory[w]) {
            char who[32];
            snprintf(who, sizeof who, "worker %d", w);
            return does_not_fit(who, &b[w], total, memory[w], is, why);
        }
    }
    sum += shared;
    return available && sum > available ? does_not_fit("this host", &b[worst], sum, available, is, why) : 0;
}
