/* runner.c - see runner.h. */
#include "tests/sim/runner.h"

#include <string.h>

#include "base/hash.h"

int32_t voice_token(const struct voice *v, int position) {
    uint64_t h = hash_u64(v->salt + (uint64_t)position);
    if ((int)(h % 100) < v->stop_percent) return STOP_TOKEN;
    int32_t t = (int32_t)(h / 100 % VOCAB);
    return t == STOP_TOKEN ? t + 1 : t;
}

void runner_init(struct runner *w, const struct scheduler_limits *l) {
    w->limits = *l;
    w->page_holder = calloc((size_t)l->pages, sizeof *w->page_holder);
    w->written = calloc((size_t)l->pages, sizeof *w->written);
    CHECK(w->page_holder && w->written, "out of memory");
}

void runner_clear(struct runner *w) {
    free(w->page_holder);
    free(w->written);
}

void runner_push(struct runner *w, uint64_t step, const struct plan_worker *p, struct voice (*voice)(const struct seq *q)) {
    CHECK(w->q_len < RUNNER_PLANS, "plan queue full");
    CHECK(p->n_run <= RUNNER_SEQS && p->n_start <= RUNNER_SEQS && p->n_drop <= RUNNER_DROPS, "%d runs, %d starts, %d drops",
          p->n_run, p->n_start, p->n_drop);
    struct plan_copy *c = &w->queue[(w->q_head + w->q_len++) % RUNNER_PLANS];
    *c = (struct plan_copy){.step = step, .n_run = p->n_run, .n_start = p->n_start, .n_drop = p->n_drop};
    for (int i = 0; i < p->n_start; i++) {
        const struct seq *q = p->start[i];
        c->start[i] = (struct start_copy){q->number, voice(q), q->given, q->prompt, q->limit - q->prompt};
        for (int k = q->prompt; k < q->given; k++)
            CHECK(q->ids[k] == voice_token(&c->start[i].voice, k), "resumed with a wrong token");
    }
    for (int i = 0; i < p->n_run; i++) {
        const struct plan_run *r = &p->run[i];
        CHECK(r->n_new_pages <= RUNNER_PAGES, "%d new pages", r->n_new_pages);
        c->run[i] = (struct run_copy){r->seq->number, r->first, r->count, r->sample, r->n_new_pages, {0}};
        memcpy(c->run[i].pages, r->new_pages, sizeof(int32_t) * (size_t)r->n_new_pages);
    }
    memcpy(c->drop, p->drop, sizeof *c->drop * (size_t)p->n_drop);
}

static struct held *held_find(struct runner *w, uint64_t number) {
    for (int i = 0; i < RUNNER_SEQS; i++)
        if (w->held[i].number == number) return &w->held[i];
    return NULL;
}

static void drop_one(struct runner *w, uint64_t number) {
    struct held *h = held_find(w, number);
    CHECK(h, "drop of sequence %" PRIu64 " that the worker does not hold", number);
    for (int i = 0; i < h->n_pages; i++) w->page_holder[h->pages[i]] = 0;
    h->number = 0;
    w->n_held--;
}

static void start_one(struct runner *w, const struct start_copy *c) {
    CHECK(!held_find(w, c->seq), "sequence %" PRIu64 " started twice", c->seq);
    struct held *h = held_find(w, 0);
    CHECK(h, "no entry for a sequence");
    CHECK(++w->n_held <= w->limits.max_seqs, "worker holds %d sequences", w->n_held);
    *h =
        (struct held){.number = c->seq, .voice = c->voice, .prompt = c->prompt, .max_tokens = c->max_tokens, .count = c->given};
}

/* A sequence that goes on where its rows were kept: they must be there. */
static void check_kept(const struct runner *w, const struct held *h, int rows) {
    int size = w->limits.page_tokens;
    for (int i = 0; i * size < rows; i++) {
        CHECK(i < h->n_pages, "rows up to %d with %d pages", rows, h->n_pages);
        const struct written *p = &w->written[h->pages[i]];
        int want = rows - i * size < size ? rows - i * size : size;
        CHECK(p->number == h->number && p->page == i && p->rows >= want,
              "page %d of sequence %" PRIu64 " has %d rows of page %d of %" PRIu64 ", wanted %d", i, h->number, p->rows,
              p->page, p->number, want);
    }
}

static void write_row(struct runner *w, const struct held *h, int position) {
    int page = position / w->limits.page_tokens, row = position % w->limits.page_tokens;
    struct written *p = &w->written[h->pages[page]];
    if (p->number != h->number || p->page != page) *p = (struct written){.number = h->number, .page = page};
    if (p->rows == row) p->rows++;
}

static void run_one(struct runner *w, const struct run_copy *c, struct step_out *out, int *n_out) {
    struct held *h = held_find(w, c->seq);
    CHECK(h, "rows for sequence %" PRIu64 " that the worker does not hold", c->seq);
    for (int i = 0; i < c->n_pages; i++) {
        uint64_t *holder = &w->page_holder[c->pages[i]];
        CHECK(!*holder, "page %d of %" PRIu64 " given to %" PRIu64, c->pages[i], *holder, c->seq);
        *holder = c->seq;
        h->pages[h->n_pages++] = c->pages[i];
    }
    CHECK(h->n_pages * w->limits.page_tokens >= c->first + c->count, "pages for %d rows, %d asked",
          h->n_pages * w->limits.page_tokens, c->first + c->count);
    if (!h->computed && c->first) check_kept(w, h, h->computed = c->first);
    CHECK(c->first == h->computed, "rows from %d, computed %d", c->first, h->computed);
    for (int i = 0; i < c->count; i++) write_row(w, h, c->first + i);
    h->computed += c->count;
    if (h->done) return; /* granted beyond the end: a no-op */
    CHECK(h->computed <= h->count, "row beyond the known tokens");
    if (!c->sample) return;
    CHECK(h->computed == h->count, "samples at %d with %d tokens known", h->computed, h->count);
    int32_t token = voice_token(&h->voice, h->count);
    struct step_out *o = &out[(*n_out)++];
    *o = (struct step_out){.seq = h->number, .position = (uint32_t)h->count, .token = token};
    h->count++;
    if (token == STOP_TOKEN) o->finish = STEP_STOP_ID;
    else if (h->count == h->prompt + h->max_tokens) o->finish = STEP_LENGTH;
    h->done = o->finish != STEP_GOES_ON;
}

uint64_t runner_step(struct runner *w, struct step_out *out, int *n_out) {
    const struct plan_copy *p = &w->queue[w->q_head];
    *n_out = 0;
    for (int i = 0; i < p->n_drop; i++) drop_one(w, p->drop[i]);
    for (int i = 0; i < p->n_start; i++) start_one(w, &p->start[i]);
    for (int i = 0; i < p->n_run; i++) run_one(w, &p->run[i], out, n_out);
    w->q_head = (w->q_head + 1) % RUNNER_PLANS;
    w->q_len--;
    return p->step;
}

void runner_forget(struct runner *w, bool died) {
    memset(w->held, 0, sizeof w->held);
    memset(w->page_holder, 0, sizeof *w->page_holder * (size_t)w->limits.pages);
    if (died) memset(w->written, 0, sizeof *w->written * (size_t)w->limits.pages);
    w->n_held = w->q_len = 0;
}
