/* journal.c - the loop's side: two buffers and what the thread says of them. The thread's side is journal_writer.c. */
#include "coordinator/journal.h"

#include "base/log.h"
#include "coordinator/journal_writer.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SYNC_US = 100 * 1000,
    SEGMENT_BYTES = 64 << 20,
    LAG_BYTES = 64 << 20,
    STALL_US = 5 * 1000 * 1000,
    RETRY_US = 1000 * 1000
};

struct journal {
    struct journal_options options;
    struct journal_writer *writer;  /* NULL before journal_start */
    struct journal_state state;     /* what was read; the writer's after journal_start */
    struct journal_segment segment; /* the same */
    int dir, lock;
    struct journal_bytes buffer[2];
    int open;                            /* the one that is being filled */
    bool handed, step, dropping;         /* handed: the writer has the other; step: between step and step_end */
    uint64_t appended, written, in_hand; /* records; in_hand: the last that was handed over */
    int64_t oldest_us, handed_us;        /* when the first record of the open buffer, and of the other, came */
    size_t handed_bytes;
    uint64_t dropped, failures;
    struct journal_progress progress;
    bool failed;
    struct why why;
};

/* ---- opening ---- */
static int replay(void *ctx, uint64_t offset, const struct journal_record *r, struct why *why) {
    (void)offset;
    return journal_state_apply(ctx, r, why);
}

static void say_read(const struct journal *j, const struct journal_scan *s) {
    const char *dir = j->options.dir;
    if (s->cut_bytes)
        log_warn("journal %s: %" PRIu64 " bytes from offset %" PRIu64 " on were being written at its end and are left out", dir,
                 s->cut_bytes, s->cut_at);
    if (s->damages)
        log_warn("journal %s: %" PRIu64 " damaged bytes in %" PRIu64 " places, the first at offset %" PRIu64 ", are left out",
                 dir, s->damaged_bytes, s->damages, s->damaged_at);
    log_info("journal %s: %" PRIu64 " records read, %zu requests to go on with", dir, s->records, j->state.n_requests);
}

static int read_old(struct journal *j, struct why *why) {
    struct journal_visitor v = {replay, &j->state};
    struct journal_scan scan;
    int rc = journal_read(j->options.dir, j->options.repair, &v, &scan, why);
    if (rc == ERR_NOT_FOUND) return 0;
    if (rc < 0) return rc;
    j->segment.number = scan.header.segment;
    say_read(j, &scan);
    if (scan.header.fingerprint == j->options.fingerprint) return 0;
    if (j->state.n_requests)
        return fail(
            why, ERR_INVALID,
            "the journal in %s has %zu unfinished requests of another model, %s (this one is %s): serve that model, or use "
            "another folder",
            j->options.dir, j->state.n_requests, j->state.model, j->options.model);
    j->state.numeric_class[0] = 0;
    return 0;
}

static void default_options(struct journal_options *o) {
    if (!o->sync_us) o->sync_us = SYNC_US;
    if (!o->segment_bytes) o->segment_bytes = SEGMENT_BYTES;
    if (!o->lag_bytes) o->lag_bytes = LAG_BYTES;
    if (!o->stall_us) o->stall_us = STALL_US;
    if (!o->retry_us) o->retry_us = RETRY_US;
    if (!o->disk) o->disk = &journal_disk;
}

int journal_open(const struct journal_options *o, struct journal **out, struct why *why) {
    struct journal *j = calloc(1, sizeof *j);
    if (!j) return fail(why, ERR_NOMEM, "out of memory for the journal");
    j->options = *o;
    j->dir = j->lock = -1;
    default_options(&j->options);
    int rc = journal_state_init(&j->state);
    if (rc < 0) fail(why, rc, "out of memory for the journal");
    if (rc >= 0) rc = journal_lock(o->dir, &j->dir, &j->lock, why);
    j->segment = (struct journal_segment){.disk = j->options.disk, .dir = j->dir, .fd = -1};
    if (rc >= 0) rc = read_old(j, why);
    if (rc < 0) {
        journal_close(j);
        return rc;
    }
    *out = j;
    return 0;
}

struct journal_state *journal_replayed(struct journal *j) {
    return &j->state;
}

/* The folder may be new, and its name is its parent's to lose. Who may not read that one did not make it. */
static int sync_parent(const struct journal *j, struct why *why) {
    const struct journal_disk *disk = j->options.disk;
    int fd = openat(j->dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? 0 : disk->sync(disk->ctx, fd);
    if (rc) fail(why, ERR_IO, "cannot sync the folder it is in: %m");
    if (fd >= 0) close(fd);
    return rc ? ERR_IO : 0;
}

int journal_start(struct journal *j, struct why *why) {
    struct journal_state *s = &j->state;
    snprintf(s->model, sizeof s->model, "%s", j->options.model ? j->options.model : "");
    s->started = true;
    int rc = sync_parent(j, why);
    if (rc >= 0) rc = journal_segment_turn(&j->segment, j->options.fingerprint, s, why);
    if (rc >= 0) rc = journal_writer_open(&j->options, &j->segment, s, &j->writer, why);
    return rc < 0 ? fail_in(why, rc, "journal %s", j->options.dir) : 0;
}

void journal_close(struct journal *j) {
    if (!j) return;
    if (j->writer) {
        struct journal_bytes *rest = &j->buffer[j->open];
        journal_writer_close(j->writer, rest->len ? rest : NULL); /* takes what was handed over first */
    }
    journal_segment_close(&j->segment);
    journal_state_clear(&j->state);
    for (int i = 0; i < 2; i++) journal_bytes_clear(&j->buffer[i]);
    if (j->lock >= 0) close(j->lock);
    if (j->dir >= 0) close(j->dir);
    free(j);
}

/* ---- appending ---- */
static size_t lag_of(const struct journal *j) { return j->buffer[j->open].len + (j->handed ? j->handed_bytes : 0); }

static int64_t waited_us(const struct journal *j, int64_t now_us) {
    if (j->handed) return now_us - j->handed_us;
    return j->buffer[j->open].len ? now_us - j->oldest_us : 0;
}

int journal_admits(const struct journal *j, int64_t now_us, struct why *why) {
    const char *dir = j->options.dir;
    if (j->failed)
        return fail(why, ERR_GONE, "no new requests now: the journal in %s has failed: %s; it is tried again all the time", dir,
                    j->why.text);
    if (waited_us(j, now_us) > j->options.stall_us)
        return fail(why, ERR_GONE, "no new requests now: the journal in %s has not moved for %.1f s", dir,
                    (double)waited_us(j, now_us) / 1e6);
    if (lag_of(j) > j->options.lag_bytes / 2)
        return fail(why, ERR_EXHAUSTED, "the journal in %s is %zu KiB behind; try again later", dir, lag_of(j) >> 10);
    return 0;
}

static void appended(struct journal *j, bool first, int64_t now_us) {
    if (first) j->oldest_us = now_us;
    j->appended++;
}

uint64_t journal_append(struct journal *j, const struct journal_record *r, int64_t now_us) {
    struct journal_bytes *b = &j->buffer[j->open];
    bool first = !b->len;
    if (j->step) BUG("a journal record inside another");
    if (journal_put(b, r) < 0) return 0;
    appended(j, first, now_us);
    return j->appended;
}

void journal_step(struct journal *j, uint64_t step, int64_t now_us) {
    struct journal_bytes *b = &j->buffer[j->open];
    if (!b->len) j->oldest_us = now_us;
    j->step = true;
    j->dropping = j->failed || lag_of(j) > j->options.lag_bytes || journal_put_tokens(b, step) < 0;
}

void journal_step_token(struct journal *j, const struct journal_token *t) {
    if (!j->dropping && journal_put_token(&j->buffer[j->open], t) < 0) j->dropping = true; /* those before it go with it */
    j->dropped += j->dropping;
}

void journal_step_end(struct journal *j) {
    if (!j->dropping && journal_put_end(&j->buffer[j->open]) >= 0) j->appended++;
    j->step = j->dropping = false;
}

void journal_flush(struct journal *j, int64_t now_us) {
    struct journal_bytes *b = &j->buffer[j->open];
    if (j->handed || !b->len) return;
    j->handed = true;
    j->handed_us = j->oldest_us < now_us ? j->oldest_us : now_us;
    j->handed_bytes = b->len;
    j->in_hand = j->appended;
    j->open = !j->open;
    journal_writer_give(j->writer, b);
}

/* ---- news ---- */
bool journal_poll(struct journal *j) {
    struct journal_news news;
    bool some = false;
    while (journal_writer_news(j->writer, &news)) {
        some = true;
        j->progress = news.progress;
        if (news.kind == JOURNAL_NEWS_FAILED) {
            j->failures++;
            j->failed = true;
            j->why = news.why;
            log_error("journal %s: %s; new requests are refused, running ones go on", j->options.dir, news.why.text);
            continue;
        }
        if (j->failed) log_info("journal %s: written again", j->options.dir);
        j->failed = false;
        if (news.kind != JOURNAL_NEWS_WRITTEN) continue;
        j->handed = false;
        j->written = j->in_hand;
    }
    return some;
}

int journal_fd(const struct journal *j) { return journal_writer_fd(j->writer); }
uint64_t journal_written(const struct journal *j) { return j->written; }

bool journal_failed(const struct journal *j, struct why *why) {
    if (j->failed) *why = j->why;
    return j->failed;
}

void journal_get_stats(const struct journal *j, int64_t now_us, struct journal_stats *out) {
    const struct journal_progress *p = &j->progress;
    *out = (struct journal_stats){.records = j->appended,
                                  .bytes = p->bytes,
                                  .syncs = p->syncs,
                                  .segments = p->segments,
                                  .failures = j->failures,
                                  .dropped = j->dropped,
                                  .segment_bytes = p->segment_bytes,
                                  .live = p->live,
                                  .lag_bytes = lag_of(j),
                                  .lag_us = waited_us(j, now_us),
                                  .failed = j->failed};
}
