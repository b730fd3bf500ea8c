/* journal_writer.c - a buffer's records are applied to the state first and then written. So a new segment, which is the state,
 * holds whatever was in hand when writing failed, and is the one answer to every failure. */
#include "coordinator/journal_writer.h"

#include "base/bell.h"
#include "base/clk.h"
#include "base/log.h"
#include "base/ring.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { RING = 16, BLOCK_BYTES = 1 << 16, GARBAGE = 4, IDLE_US = 3600 * 1000 * 1000ll };

struct journal_writer {
    struct journal_options options;
    struct journal_segment *segment;
    struct journal_state *state;
    struct ring in, news; /* of struct journal_bytes *, struct journal_news */
    struct bell wake, told;
    atomic_bool stop;
    pthread_t thread;
    /* the thread's */
    struct journal_bytes *hand; /* NULL: none */
    size_t applied;             /* bytes of it */
    bool failed, complained;
    int64_t sync_due_us, retry_us; /* 0: none */
    struct arena arena;
    struct journal_progress progress;
};

/* At most two for each buffer, one for the sync after it: the loop, which takes them all before it gives the next, cannot miss
 * one. */
static void tell(struct journal_writer *w, enum journal_news_kind kind, const struct why *why) {
    struct journal_news n = {.kind = kind};
    if (why) n.why = *why;
    w->progress.segment_bytes = w->segment->bytes;
    w->progress.live = w->state->n_requests;
    n.progress = w->progress;
    if (!ring_push(&w->news, &n) && kind == JOURNAL_NEWS_WRITTEN) BUG("no room for a journal's news");
    bell_ring(&w->told);
}

static void failed(struct journal_writer *w, const struct why *why) {
    w->failed = true;
    w->retry_us = clk_now_us() + w->options.retry_us;
    w->sync_due_us = 0;
    if (!w->complained) tell(w, JOURNAL_NEWS_FAILED, why);
    w->complained = true;
}

/* Of the buffer in hand. Out of memory half-way it goes on there the next time. */
static int apply(struct journal_writer *w, struct why *why) {
    while (w->applied < w->hand->len) {
        const uint8_t *at = w->hand->data + w->applied;
        struct journal_head h = journal_get_head(at);
        struct journal_record r;
        arena_reset(&w->arena);
        int rc = journal_decode(h.kind, at + JOURNAL_HEAD_BYTES, h.len, &w->arena, &r, why);
        if (rc >= 0) rc = journal_state_apply(w->state, &r, why);
        if (rc == ERR_NOMEM) return rc;
        if (rc < 0) BUG("the journal's own record: %s", why->text);
        w->applied += JOURNAL_HEAD_BYTES + h.len;
    }
    return 0;
}

static int turn(struct journal_writer *w, struct why *why) {
    int rc = journal_segment_turn(w->segment, w->options.fingerprint, w->state, why);
    if (rc < 0) return rc;
    w->progress.segments++;
    w->progress.bytes += w->segment->bytes;
    return 0;
}

static int write_hand(struct journal_writer *w, struct why *why) {
    bool anew = w->failed,
         grown = w->segment->bytes > w->options.segment_bytes && w->segment->bytes / GARBAGE > w->state->bytes;
    if (anew || grown) return turn(w, why);
    int rc = journal_segment_append(w->segment, w->hand->data, w->hand->len, why);
    if (rc < 0) return rc;
    w->progress.bytes += w->hand->len;
    if (w->options.sync != JOURNAL_SYNC_ALWAYS) return 0;
    w->progress.syncs++;
    return journal_segment_sync(w->segment, why);
}

static void plan_sync(struct journal_writer *w) {
    if (w->options.sync == JOURNAL_SYNC_INTERVAL && w->segment->dirty && !w->sync_due_us)
        w->sync_due_us = clk_now_us() + w->options.sync_us;
}

/* The buffer in hand, or only a new segment after a failure without one. */
static void take_turn(struct journal_writer *w) {
    struct why why;
    int rc = w->hand ? apply(w, &why) : 0;
    if (rc >= 0) rc = w->hand ? write_hand(w, &why) : turn(w, &why);
    if (rc < 0) return failed(w, &why);
    bool had = w->hand != NULL;
    if (had) w->hand->len = 0;
    w->hand = NULL;
    w->applied = 0;
    w->failed = w->complained = false;
    plan_sync(w);
    tell(w, had ? JOURNAL_NEWS_WRITTEN : JOURNAL_NEWS_SYNCED, NULL);
}

static void sync_now(struct journal_writer *w) {
    struct why why;
    w->sync_due_us = 0;
    w->progress.syncs++;
    if (journal_segment_sync(w->segment, &why) < 0) failed(w, &why);
    else tell(w, JOURNAL_NEWS_SYNCED, NULL);
}

static void sleep_until(struct journal_writer *w, int64_t when_us) {
    struct pollfd p = {.fd = w->wake.fd, .events = POLLIN};
    int64_t us = when_us - clk_now_us();
    if (us > 0) poll(&p, 1, (int)((us + 999) / 1000));
    bell_clear(&w->wake);
}

static void *writer_main(void *arg) {
    struct journal_writer *w = arg;
    log_set_name("journal");
    while (!atomic_load(&w->stop)) {
        int64_t now = clk_now_us();
        if (!w->hand) ring_pop(&w->in, &w->hand);
        if (w->failed ? now >= w->retry_us : w->hand != NULL) take_turn(w);
        else if (w->sync_due_us && now >= w->sync_due_us) sync_now(w);
        else sleep_until(w, w->failed ? w->retry_us : w->sync_due_us ? w->sync_due_us : now + IDLE_US);
    }
    if (w->hand || ring_pop(&w->in, &w->hand)) take_turn(w);
    return NULL;
}

int journal_writer_open(const struct journal_options *o, struct journal_segment *segment, struct journal_state *state,
                        struct journal_writer **out, struct why *why) {
    struct journal_writer *w =
        aligned_alloc(_Alignof(struct journal_writer), sizeof *w); /* its rings keep to their cache lines */
    if (!w) return fail(why, ERR_NOMEM, "out of memory for its thread");
    *w = (struct journal_writer){.options = *o, .segment = segment, .state = state, .wake = {-1}, .told = {-1}};
    arena_init(&w->arena, BLOCK_BYTES);
    if (bell_open(&w->wake) < 0 || bell_open(&w->told) < 0 || ring_init(&w->in, sizeof(struct journal_bytes *), 2) < 0 ||
        ring_init(&w->news, sizeof(struct journal_news), RING) < 0 || pthread_create(&w->thread, NULL, writer_main, w)) {
        bell_close(&w->wake);
        bell_close(&w->told);
        ring_clear(&w->in);
        ring_clear(&w->news);
        free(w);
        return fail(why, ERR_IO, "cannot start its thread");
    }
    *out = w;
    return 0;
}

void journal_writer_give(struct journal_writer *w, struct journal_bytes *buffer) {
    if (!ring_push(&w->in, &buffer)) BUG("a second buffer for the journal's thread");
    bell_ring(&w->wake);
}

bool journal_writer_news(struct journal_writer *w, struct journal_news *out) {
    bell_clear(&w->told);
    return ring_pop(&w->news, out);
}

int journal_writer_fd(const struct journal_writer *w) { return w->told.fd; }

void journal_writer_close(struct journal_writer *w, struct journal_bytes *rest) {
    struct why why;
    struct journal_news drop;
    atomic_store(&w->stop, true);
    bell_ring(&w->wake);
    pthread_join(w->thread, NULL);
    while (ring_pop(&w->news, &drop)) continue;
    bool behind = w->hand != NULL;
    if (!behind && rest) {
        w->hand = rest;
        w->applied = 0;
        take_turn(w);
    }
    if (behind || w->failed || journal_segment_sync(w->segment, &why) < 0)
        log_warn("journal %s: the last records could not be written", w->options.dir);
    arena_clear(&w->arena);
    ring_clear(&w->in);
    ring_clear(&w->news);
    bell_close(&w->wake);
    bell_close(&w->told);
    free(w);
}
