/* fabric_rounds.c - one layer's exchange by the engine, again and again: dispatch, combine, no experts in between. */
#include <stdlib.h>

#include "base/clk.h"
#include "base/log.h"
#include "fabric/ep.h"
#include "tests/bench/bench_fabric.h"

struct rounds {
    const struct load *load;
    struct ep *ep;
    const float **rows;
    uint64_t step;
    int done;
    double dispatch[MOST_ROUNDS], combine[MOST_ROUNDS], both[MOST_ROUNDS]; /* us */
};

static struct ep_limits limits_of(const struct shape *s) {
    return (struct ep_limits){.max_tokens = s->tokens, .max_slots = EXPERTS, .hidden = s->hidden, .topk = s->topk};
}

size_t rounds_frame_bytes(const struct shape *s) {
    struct ep_limits limits = limits_of(s);
    return ep_frame_bytes(&limits, s->ranks);
}

struct rounds *rounds_new(struct fabric *f, const struct load *l) {
    struct ep_limits limits = limits_of(&l->shape);
    struct rounds *r = calloc(1, sizeof *r);
    struct why why;
    if (!r || !(r->rows = calloc((size_t)(l->shape.tokens * l->shape.topk), sizeof *r->rows))) die("out of memory");
    if (ep_new(f, &limits, &r->ep, &why) < 0) die("%s", why.text);
    r->load = l;
    return r;
}

static void one_round(struct rounds *r, bool counts) {
    const struct load *l = r->load;
    int32_t tokens[FABRIC_MAX_RANKS];
    uint64_t late;
    struct ep_work work;
    struct ep_send send = {.tokens = l->shape.tokens, .x = l->x, .worker = l->worker, .slot = l->slot};
    int slots = (EXPERTS + l->shape.ranks - 1) / l->shape.ranks;
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    for (int w = 0; w < l->shape.ranks; w++) tokens[w] = l->shape.tokens;
    ep_step_begin(r->ep, 1, ++r->step, tokens, 1);
    int64_t start = bench_now_ns();
    int rc = ep_dispatch_post(r->ep, 0, 0, &send, slots, deadline_us);
    if (rc >= 0) rc = ep_dispatch_wait(r->ep, 0, &work, deadline_us, &late);
    int64_t half = bench_now_ns();
    if (rc >= 0) rc = ep_combine_post(r->ep, 0, deadline_us);
    if (rc >= 0) rc = ep_combine_wait(r->ep, 0, r->rows, deadline_us, &late);
    int64_t end = bench_now_ns();
    if (rc < 0) die("rank %d: %s", l->rank, status_text(rc));
    if (!counts) return;
    r->dispatch[r->done] = (double)(half - start) / 1e3;
    r->combine[r->done] = (double)(end - half) / 1e3;
    r->both[r->done++] = (double)(end - start) / 1e3;
}

void rounds_run(struct rounds *r, int rounds, int warm) {
    for (int i = 0; i < warm; i++) one_round(r, false);
    for (int i = 0; i < rounds; i++) one_round(r, true);
    if (ep_flush(r->ep, clk_now_us() + PATIENCE_US) < 0) die("rank %d: frames do not leave", r->load->rank);
}

void rounds_fill(struct rounds *r, struct row *row) {
    int n = r->done, last = (n - 1) * 99 / 100;
    row->shape = r->load->shape;
    row->dispatch50 = bench_median(r->dispatch, n), row->dispatch99 = r->dispatch[last];
    row->combine50 = bench_median(r->combine, n), row->combine99 = r->combine[last];
    row->both50 = bench_median(r->both, n), row->both99 = r->both[last];
    for (int half = 0; half < HALVES; half++)
        for (int w = 0; w < r->load->shape.ranks; w++) row->out_bytes += (double)bare_bytes(r->load->out[half][w], r->load);
}

void rounds_free(struct rounds *r) {
    ep_free(r->ep);
    free(r->rows);
    free(r);
}
