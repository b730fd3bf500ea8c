/* fate.c - see fate.h. */
#include "tests/sim/fate.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/hash.h"

static uint64_t draw(uint64_t *rng) { return hash_u64(*rng += 0x9e3779b97f4a7c15u); }
static int range(uint64_t *rng, int lo, int hi) { return lo + (int)(draw(rng) % (uint64_t)(hi - lo + 1)); }

/* Every way to be struck is as likely, but for the kill, which takes half. */
static enum blow_how draw_how(uint64_t *rng) {
    return range(rng, 0, 1) ? BLOW_KILL : (enum blow_how)range(rng, 1, BLOW_HOWS - 1);
}

/* What happens at a message happens inside the worker that gets it. */
static bool ends_it(enum blow_how h) { return h == BLOW_KILL || h == BLOW_VANISH; }

static void draw_blows(struct fate *f, uint64_t *rng, uint64_t tokens) {
    int order[FATE_WORKERS];
    uint64_t least = 1;
    int most = f->comes_back || f->tight ? f->workers : f->workers - 1;
    for (int i = 0; i < f->workers; i++) order[i] = i;
    f->n = range(rng, 1, most < FATE_BLOWS ? most : FATE_BLOWS);
    for (int i = 0; i < f->n; i++) {
        struct blow *b = &f->blow[i];
        int j = range(rng, i, f->workers - 1);
        b->rank = order[j];
        order[j] = order[i];
        order[i] = b->rank;
        b->how = draw_how(rng);
        b->when = i ? (enum blow_when)range(rng, 0, BLOW_WHENS - 1) : BLOW_AFTER_TOKENS;
        if (b->when >= BLOW_AT_EPOCH && !ends_it(b->how)) b->how = BLOW_VANISH;
        least += draw(rng) % (tokens / (uint64_t)f->n);
        b->tokens = least;
    }
}

/* With so many workers the fullest has more experts when there is one fewer: of 8 experts. */
static bool can_be_tight(int workers) { return workers <= 4 || workers == 8; }

void fate_draw(struct fate *f, uint64_t seed, uint64_t tokens) {
    uint64_t rng = hash_u64(seed + 1);
    *f = (struct fate){.workers = range(&rng, 0, 2) ? range(&rng, 2, 4) : range(&rng, 5, FATE_WORKERS)};
    f->hosts = range(&rng, 1, 3);
    f->hops = f->hosts > 1 ? range(&rng, 1, 2) : 1;
    f->microbatches = range(&rng, 0, 2);
    f->fault_percent = range(&rng, 0, 2) ? 0 : 3;
    f->late_us = range(&rng, 0, 3) ? 0 : range(&rng, 1, 600) * 1000;
    f->comes_back = range(&rng, 0, 1);
    f->tight = range(&rng, 0, 4) == 0 && can_be_tight(f->workers);
    f->drains = !f->tight && range(&rng, 0, 4) == 0;
    if (f->drains) f->comes_back = false;
    f->drain_tokens = draw(&rng) % (tokens / 2);
    f->newcomer = range(&rng, 0, 2) ? NEWCOMER_LIVES : (enum newcomer)range(&rng, 1, 2);
    draw_blows(f, &rng, tokens * 3 / 4);
    if (f->tight || f->drains || range(&rng, 0, 2)) return;
    f->restart = (enum restart)range(&rng, 1, RESTARTS - 1);
    f->restart_tokens = draw(&rng) % (tokens / 2);
    f->torn = range(&rng, 0, 1) * range(&rng, 1, 60);
    f->away_ms = range(&rng, 0, 400);
}

struct text {
    char *buf;
    size_t cap, n;
};
static void say(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct text *t, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->buf + t->n, t->cap - t->n, fmt, ap);
    va_end(ap);
    t->n = t->n + (size_t)n < t->cap ? t->n + (size_t)n : t->cap - 1;
}

void fate_say(const struct fate *f, char *buf, size_t cap) {
    static const char *const how[] = {"is killed", "vanishes", "is stopped", "pauses", "is cut off", "is deaf", "is mute"};
    static const char *const when[] = {
        "", "at once", "as it prepares", "when it has prepared", "as it switches", "at its first plan"};
    static const char *const newcomer[] = {"", " (the first dies while loading)", " (the first dies when ready)"};
    struct text t = {buf, cap, 0};
    say(&t, "%d workers on %d hosts, %d hops, microbatches %d, faults %d %%", f->workers, f->hosts, f->hops, f->microbatches,
        f->fault_percent);
    for (int i = 0; i < f->n; i++) {
        const struct blow *b = &f->blow[i];
        if (b->when == BLOW_AFTER_TOKENS) say(&t, "; after %" PRIu64 " tokens %d %s", b->tokens, b->rank, how[b->how]);
        else say(&t, "; %s %d %s", when[b->when], b->rank, how[b->how]);
    }
    if (f->restart) {
        if (f->restart == RESTART_APART) say(&t, "; after %" PRIu64 " tokens", f->restart_tokens);
        else say(&t, "; %s the first blow", f->restart == RESTART_WITH ? "at" : "right after");
        say(&t, " the coordinator is killed, %d bytes torn, %d ms away", f->torn, f->away_ms);
    }
    if (f->late_us) say(&t, "; one takes %d ms to prepare", f->late_us / 1000);
    if (f->tight) say(&t, "; one fewer cannot hold the model");
    if (f->drains) say(&t, "; drained after %" PRIu64 " tokens", f->drain_tokens);
    if (f->comes_back || f->tight) say(&t, "; the dead come back%s", newcomer[f->newcomer]);
}
