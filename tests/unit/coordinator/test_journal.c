/* test_journal.c - what was acknowledged is there after whatever happened: files torn at every byte, bits flipped at every
 * byte, a disk that fails at every operation, for once or for ever. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clk.h"
#include "base/log.h"
#include "coordinator/journal.h"
#include "tests/unit/run.h"

enum { PATIENCE_MS = 20000, FINGERPRINT = 77 };

/* ---- records to write ---- */
static const int32_t prompt[] = {5, 6, 7, 1000000, 0};
static const struct text_slice stops[] = {{"END", 3}, {"\n", 1}};
static const struct top_token tops[] = {{1, -0.5f}, {2, -1.25f}};

static struct journal_record accept_of(uint64_t number) {
    struct journal_accept a = {
        .number = number,
        .at_us = 1700000000000000,
        .deadline_us = 1700000001000000,
        .sampling = {.temperature = 0.7f, .top_p = 0.9f, .min_p = 0.1f, .top_k = 40, .seed = ~number, .logprobs = 3},
        .priority = -5,
        .max_tokens = 64,
        .allow_degraded = number & 1,
        .ids = prompt,
        .n_ids = 1 + number % 5,
        .stop_ids = prompt,
        .n_stop_ids = number % 3,
        .stops = stops,
        .n_stops = number % 3,
        .tag = {"code", 4},
        .tenant = {"somebody", number % 8}};
    memset(a.id, (int)number, sizeof a.id);
    return (struct journal_record){.kind = JOURNAL_ACCEPT, .accept = a};
}
static struct journal_token token_of(uint64_t number, uint32_t index) {
    return (struct journal_token){.number = number,
                                  .index = index,
                                  .id = (int32_t)(number * 100 + index),
                                  .logprob = -0.125f,
                                  .n_top = index % 3,
                                  .top = tops};
}
static struct journal_record finish_of(uint64_t number, uint32_t tokens) {
    return (struct journal_record){
        .kind = JOURNAL_FINISH,
        .finish = {.number = number, .tokens = tokens, .stop = true, .queue_us = 4, .message = {"so", 2}}};
}
static struct journal_record forget_of(uint64_t number) {
    return (struct journal_record){.kind = JOURNAL_FORGET, .forget = number};
}
static struct journal_record start_of(uint32_t epoch) {
    return (struct journal_record){
        .kind = JOURNAL_START,
        .start = {.counters = {.epoch = epoch, .placement_version = 2, .incarnation = 3, .request = 4}, .model = {"m", 1}}};
}
static struct journal_record class_of(void) {
    return (struct journal_record){.kind = JOURNAL_CLASS, .numeric_class = {"cpu avx2 bf16", 13}};
}
static struct journal_record synced_of(uint64_t bytes) {
    return (struct journal_record){.kind = JOURNAL_SYNCED, .synced = bytes};
}
static void put(struct journal_bytes *b, struct journal_record r) { ck_assert_int_eq(journal_put(b, &r), 0); }
static void put_step(struct journal_bytes *b, uint64_t step, uint32_t index) {
    const struct journal_token t[] = {token_of(1, index), token_of(2, index), token_of(3, index)};
    put(b, (struct journal_record){.kind = JOURNAL_TOKENS, .tokens = {.step = step, .token = t, .n = 3}});
}

/* ---- a segment in memory ---- */
struct image {
    struct journal_bytes bytes; /* header included */
    uint64_t base, synced;      /* bytes */
    int mark;                   /* the record that says so */
    size_t at[64];              /* where records begin; one more than there are */
    int n;
};

static void image_seal(struct image *m) {
    uint8_t *data = m->bytes.data;
    for (size_t at = m->at[0] = JOURNAL_HEADER_BYTES; at < m->bytes.len; m->at[++m->n] = at)
        at += JOURNAL_HEAD_BYTES + journal_get_head(data + at).len;
    journal_make_header(&(struct journal_header){.segment = 9, .fingerprint = FINGERPRINT, .base_bytes = m->base}, data);
    ck_assert_uint_eq(journal_seal(data + JOURNAL_HEADER_BYTES, m->bytes.len - JOURNAL_HEADER_BYTES, 9, JOURNAL_HEADER_BYTES),
                      (size_t)m->n);
}

static void image_make(struct image *m) {
    *m = (struct image){0};
    struct journal_bytes *b = &m->bytes;
    b->data = calloc(1, b->cap = 4096);
    b->len = JOURNAL_HEADER_BYTES;
    put(b, start_of(1));
    put(b, class_of());
    m->base = b->len;
    for (uint64_t n = 1; n <= 3; n++) put(b, accept_of(n));
    for (uint32_t i = 0; i < 2; i++) put_step(b, i + 1, i);
    m->synced = b->len;
    m->mark = 8; /* start, class, 3 requests, 2 steps, and another */
    put_step(b, 3, 2);
    put(b, synced_of(m->synced));
    put(b, finish_of(2, 3));
    put(b, forget_of(1));
    put(b, start_of(2));
    image_seal(m);
}

struct seen {
    const struct image *image;
    int n;
};
/* Whatever is read back is, byte for byte, what was written at that place. */
static int see(void *ctx, uint64_t offset, const struct journal_record *r, struct why *why) {
    struct seen *s = ctx;
    struct journal_bytes again = {0};
    (void)why;
    put(&again, *r);
    journal_seal(again.data, again.len, 9, offset);
    ck_assert_uint_le(offset + again.len, s->image->bytes.len);
    ck_assert_mem_eq(again.data, s->image->bytes.data + offset, again.len);
    journal_bytes_clear(&again);
    s->n++;
    return 0;
}
static int scan(const struct image *m, const uint8_t *data, size_t len, bool repair, struct journal_scan *out, int *seen) {
    struct seen s = {.image = m};
    struct journal_visitor v = {see, &s};
    struct why why = {""};
    int rc = journal_scan(data, len, repair, &v, out, &why);
    ck_assert(rc >= 0 || strlen(why.text) > 10);
    *seen = s.n;
    return rc;
}
static int whole_before(const struct image *m, size_t len) {
    int n = 0;
    while (n < m->n && m->at[n + 1] <= len) n++;
    return n;
}

START_TEST(records_come_back) {
    struct image m;
    struct journal_scan s;
    int seen;
    image_make(&m);
    ck_assert_int_eq(scan(&m, m.bytes.data, m.bytes.len, false, &s, &seen), 0);
    ck_assert_int_eq(seen, m.n);
    ck_assert_uint_eq(s.records, (uint64_t)m.n);
    ck_assert_uint_eq(s.bytes, m.bytes.len);
    ck_assert_uint_eq(s.header.fingerprint, FINGERPRINT);
    ck_assert(!s.cut_bytes && !s.damages);
    ck_assert_uint_eq(s.synced, m.synced);
    journal_bytes_clear(&m.bytes);
}
END_TEST

START_TEST(torn_anywhere) {
    struct image m;
    struct journal_scan s;
    int seen;
    image_make(&m);
    for (size_t len = 0; len < m.bytes.len; len++) {
        int rc = scan(&m, m.bytes.data, len, false, &s, &seen), whole = whole_before(&m, len);
        if (len < m.base) { /* that part had been synced */
            ck_assert_int_eq(rc, ERR_CORRUPT);
            continue;
        }
        ck_assert_int_eq(rc, 0);
        ck_assert_int_eq(seen, whole);
        ck_assert_uint_eq(s.bytes, m.at[whole]);
        ck_assert_uint_eq(s.cut_bytes, len - m.at[whole]);
    }
    journal_bytes_clear(&m.bytes);
}
END_TEST

static int record_at(const struct image *m, size_t byte) {
    int r = 0;
    while (m->at[r + 1] <= byte) r++;
    return r;
}

START_TEST(a_bit_anywhere) {
    struct image m;
    struct journal_scan s;
    int seen;
    image_make(&m);
    uint8_t *copy = malloc(m.bytes.len);
    for (size_t i = 0; i < m.bytes.len * 2; i++) {
        size_t byte = i / 2;
        memcpy(copy, m.bytes.data, m.bytes.len);
        copy[byte] ^= (uint8_t)(i & 1 ? 0x80 : 1 << byte % 7);
        int rc = scan(&m, copy, m.bytes.len, false, &s, &seen);
        if (byte < JOURNAL_HEADER_BYTES) {
            ck_assert(rc == ERR_CORRUPT || rc == ERR_UNSUPPORTED);
            continue;
        }
        int hit = record_at(&m, byte);
        bool kept = m.at[hit] < m.synced; /* the disk had promised it; behind that it was being written */
        ck_assert_int_eq(rc, kept ? ERR_CORRUPT : 0);
        ck_assert_int_eq(seen, kept ? hit : m.n - 1); /* those before it, or all others, and not one that is wrong */
        ck_assert_int_eq(scan(&m, copy, m.bytes.len, true, &s, &seen), 0);
        ck_assert_int_eq(seen, m.n - 1);
        ck_assert_uint_eq(s.synced, hit == m.mark ? m.base : m.synced);
        ck_assert_uint_eq(s.damages, kept);
        ck_assert_uint_eq(kept ? s.damaged_at : s.cut_at, m.at[hit]);
        ck_assert_uint_eq(kept ? s.damaged_bytes : s.cut_bytes, m.at[hit + 1] - m.at[hit]);
    }
    free(copy);
    journal_bytes_clear(&m.bytes);
}
END_TEST

START_TEST(what_stood_elsewhere) { /* old blocks of a disk: whole records, but of another place or segment */
    struct image m;
    struct journal_scan s;
    int seen;
    image_make(&m);
    size_t len = m.bytes.len, last = m.at[m.n] - m.at[m.n - 1];
    uint8_t *longer = calloc(1, 2 * len);
    memcpy(longer, m.bytes.data, len);
    memcpy(longer + len, m.bytes.data + m.at[m.n - 1], last);
    ck_assert_int_eq(scan(&m, longer, len + last, false, &s, &seen), 0);
    ck_assert_int_eq(seen, m.n);
    ck_assert_uint_eq(s.cut_bytes, last);
    journal_seal(longer + len, last, 8, len); /* the segment before */
    ck_assert_int_eq(scan(&m, longer, len + last, false, &s, &seen), 0);
    ck_assert_uint_eq(s.cut_bytes, last);
    memset(longer + len, 0, len); /* space that was never written */
    ck_assert_int_eq(scan(&m, longer, 2 * len, false, &s, &seen), 0);
    ck_assert_uint_eq(s.cut_bytes, len);
    free(longer);
    journal_bytes_clear(&m.bytes);
}
END_TEST

/* ---- state ---- */
static int apply(struct journal_state *s, struct journal_record r) {
    struct why why;
    return journal_state_apply(s, &r, &why);
}
static void apply_token(struct journal_state *s, uint64_t number, uint32_t index) {
    struct journal_token t = token_of(number, index);
    ck_assert_int_eq(apply(s, (struct journal_record){.kind = JOURNAL_TOKENS, .tokens = {.token = &t, .n = 1}}), 0);
}

START_TEST(states) {
    struct journal_state s;
    ck_assert_int_eq(journal_state_init(&s), 0);
    ck_assert_int_eq(apply(&s, accept_of(1)), ERR_CORRUPT); /* a start comes first */
    ck_assert_int_eq(apply(&s, start_of(7)), 0);
    ck_assert_int_eq(apply(&s, start_of(3)), 0);
    ck_assert_uint_eq(s.counters.epoch, 7);
    ck_assert_int_eq(apply(&s, accept_of(5)), 0);
    ck_assert_uint_eq(s.counters.request, 5);
    ck_assert_int_eq(apply(&s, accept_of(5)), ERR_CORRUPT);
    ck_assert_int_eq(apply(&s, accept_of(0)), ERR_CORRUPT);
    struct journal_request *q = journal_state_find(&s, 5);
    apply_token(&s, 5, 0);
    apply_token(&s, 5, 0); /* said twice */
    apply_token(&s, 5, 2); /* after a gap */
    apply_token(&s, 6, 0); /* nobody's */
    ck_assert_uint_eq(q->n_tokens, 1);
    ck_assert_int_eq(apply(&s, finish_of(5, 3)), 0); /* it had more than we know: to be computed again */
    ck_assert(!q->finished);
    apply_token(&s, 5, 1);
    apply_token(&s, 5, 2);
    ck_assert_int_eq(apply(&s, finish_of(5, 3)), 0);
    ck_assert(q->finished && q->finish.stop);
    apply_token(&s, 5, 3);
    ck_assert_uint_eq(q->n_tokens, 3);
    journal_state_tops(q);
    ck_assert_int_eq(q->token[2].top[1].id, 2);
    for (uint64_t n = 10; n < 5000; n++) ck_assert_int_eq(apply(&s, accept_of(n)), 0);
    for (uint64_t n = 10; n < 5000; n++) ck_assert_int_eq(apply(&s, forget_of(n)), 0);
    ck_assert_int_eq(apply(&s, forget_of(12345)), 0);
    ck_assert_uint_eq(s.n_requests, 1);
    ck_assert_uint_eq(s.counters.request, 4999);
    journal_state_clear(&s);
}
END_TEST

/* ---- a disk that fails ---- */
struct disk {
    struct journal_disk ops;
    atomic_int op, fail_at; /* the operation that fails, counted from 0; -1: none */
    atomic_bool for_ever, full, half;
    int gate; /* >= 0: a write waits until this can be read */
};
static bool refuses(struct disk *d) {
    int op = atomic_fetch_add(&d->op, 1), at = atomic_load(&d->fail_at);
    bool no = atomic_load(&d->full) || (at >= 0 && (atomic_load(&d->for_ever) ? op >= at : op == at));
    if (no) errno = ENOSPC;
    return no;
}
static int d_open(void *ctx, int dir, const char *name) { return refuses(ctx) ? -1 : journal_disk.open(NULL, dir, name); }
static ssize_t d_write(void *ctx, int fd, const void *data, size_t n) {
    struct disk *d = ctx;
    if (d->gate >= 0) poll(&(struct pollfd){.fd = d->gate, .events = POLLIN}, 1, PATIENCE_MS);
    if (!refuses(ctx)) return journal_disk.write(NULL, fd, data, n);
    if (atomic_load(&d->half)) { /* what a full disk does: some of it is there */
        ssize_t done = journal_disk.write(NULL, fd, data, n / 2);
        (void)done;
        errno = ENOSPC;
    }
    return -1;
}
static int d_sync(void *ctx, int fd) { return refuses(ctx) ? -1 : journal_disk.sync(NULL, fd); }
static int d_rename(void *ctx, int dir, const char *from, const char *to) {
    return refuses(ctx) ? -1 : journal_disk.rename(NULL, dir, from, to);
}
static int d_remove(void *ctx, int dir, const char *name) { return refuses(ctx) ? -1 : journal_disk.remove(NULL, dir, name); }
static void disk_init(struct disk *d) {
    *d = (struct disk){.ops = {d_open, d_write, d_sync, d_rename, d_remove, d}, .fail_at = -1, .half = true, .gate = -1};
}

/* ---- a folder ---- */
static char dir[64];
static void make_dir(void) {
    snprintf(dir, sizeof dir, "/tmp/test_journal.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    log_set_level(LOG_ERROR - 1);
}
static int files(const char *suffix, bool remove) {
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t len = strlen(e->d_name), want = strlen(suffix);
        if (e->d_name[0] == '.' || len < want || strcmp(e->d_name + len - want, suffix) != 0) continue;
        if (remove) unlinkat(dirfd(d), e->d_name, 0);
        n++;
    }
    if (d) closedir(d);
    return n;
}
static void clear_dir(void) { files("", true); }
static void drop_dir(void) { clear_dir(), rmdir(dir); }

static struct journal_options options(struct disk *d) {
    return (struct journal_options){
        .dir = dir, .sync_us = 1000, .retry_us = 1000, .fingerprint = FINGERPRINT, .model = "m", .disk = d ? &d->ops : NULL};
}
static struct journal *open_with(const struct journal_options *o) {
    struct journal *j = NULL;
    struct why why = {""};
    int rc = journal_open(o, &j, &why);
    ck_assert_msg(rc == 0, "%s", why.text);
    return j;
}
static struct journal *begin(struct disk *d) {
    struct journal_options o = options(d);
    struct journal *j = open_with(&o);
    struct why why = {""};
    ck_assert_msg(journal_start(j, &why) == 0, "%s", why.text);
    return j;
}
static uint64_t append(struct journal *j, struct journal_record r) {
    uint64_t n = journal_append(j, &r, clk_now_us());
    ck_assert_uint_gt(n, 0);
    return n;
}
static void step(struct journal *j, uint64_t number, uint32_t index) {
    struct journal_token t = token_of(number, index);
    journal_step(j, index + 1, clk_now_us());
    journal_step_token(j, &t);
    journal_step_end(j);
}
static void wait_news(struct journal *j) {
    struct pollfd p = {.fd = journal_fd(j), .events = POLLIN};
    ck_assert_int_gt(poll(&p, 1, PATIENCE_MS), 0);
    journal_poll(j);
}
/* True when everything up to n is written, false when it has failed. */
static bool settle(struct journal *j, uint64_t n) {
    struct why why;
    while (journal_written(j) < n) {
        if (journal_failed(j, &why)) return false;
        journal_flush(j, clk_now_us());
        wait_news(j);
    }
    return true;
}
static void recover(struct journal *j, uint64_t n) {
    while (!settle(j, n)) wait_news(j);
}

/* Power may fail at once after a start: then the folder itself has to be there. */
static ino_t synced[8];
static int n_synced;
static int d_note(void *ctx, int fd) {
    struct stat st;
    if (!fstat(fd, &st) && n_synced < 8) synced[n_synced++] = st.st_ino;
    return d_sync(ctx, fd);
}
START_TEST(a_new_folder) {
    char folder[96];
    struct disk d;
    struct stat parent, own;
    snprintf(folder, sizeof folder, "%s/new", dir);
    disk_init(&d);
    d.ops.sync = d_note;
    struct journal_options o = options(&d);
    o.dir = folder;
    struct journal *j = open_with(&o);
    struct why why = {""};
    ck_assert_msg(journal_start(j, &why) == 0, "%s", why.text);
    ck_assert(!stat(dir, &parent) && !stat(folder, &own));
    bool has_parent = false, has_own = false;
    for (int i = 0; i < n_synced; i++) has_parent |= synced[i] == parent.st_ino, has_own |= synced[i] == own.st_ino;
    ck_assert(has_parent && has_own);
    journal_close(j);
    char file[128];
    snprintf(file, sizeof file, "%s/0000000000000001.journal", folder);
    ck_assert_int_eq(unlink(file), 0);
    snprintf(file, sizeof file, "%s/lock", folder);
    ck_assert_int_eq(unlink(file), 0);
    ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

START_TEST(remembers) {
    struct journal *j = begin(NULL);
    struct why why;
    append(j, class_of());
    for (uint64_t n = 1; n <= 3; n++) append(j, accept_of(n));
    for (uint32_t i = 0; i < 40; i++) step(j, 2, i);
    append(j, finish_of(2, 40));
    uint64_t last = append(j, forget_of(1));
    ck_assert_int_eq(journal_admits(j, clk_now_us(), &why), 0);
    ck_assert(settle(j, last));
    struct journal_stats st;
    journal_get_stats(j, clk_now_us(), &st);
    ck_assert_uint_eq(st.records, last);
    ck_assert_uint_eq(st.lag_bytes, 0);
    ck_assert_uint_eq(st.live, 2);
    step(j, 3, 0); /* not flushed: written at close */
    journal_close(j);

    for (int again = 0; again < 3; again++) {
        j = begin(NULL);
        struct journal_state *s = journal_replayed(j);
        ck_assert_str_eq(s->numeric_class, "cpu avx2 bf16");
        ck_assert_uint_eq(s->counters.request, 3);
        ck_assert_uint_eq(s->n_requests, 2);
        struct journal_request *q = journal_state_find(s, 2), *r = journal_state_find(s, 3);
        ck_assert(q->finished && q->n_tokens == 40 && q->token[39].id == 239 && q->accept.n_ids == 3);
        ck_assert(!r->finished && r->n_tokens == 1 && r->accept.sampling.seed == ~UINT64_C(3));
        ck_assert_uint_eq(r->accept.tenant.len, 3);
        ck_assert_int_eq(files(".journal", false), 1);
        journal_close(j);
    }
}
END_TEST

START_TEST(one_owner) {
    struct journal *j = begin(NULL), *second = NULL;
    struct journal_options o = options(NULL);
    struct why why;
    ck_assert_int_eq(journal_open(&o, &second, &why), ERR_EXISTS);
    ck_assert(strstr(why.text, "another coordinator") != NULL);
    uint64_t n = append(j, accept_of(1));
    ck_assert(settle(j, n));
    journal_close(j);
    o.fingerprint = 78;
    ck_assert_int_eq(journal_open(&o, &second, &why), ERR_INVALID);
    ck_assert(strstr(why.text, "1 unfinished requests of another model, m") != NULL);
    o.dir = "/dev/null/journal";
    ck_assert_int_eq(journal_open(&o, &second, &why), ERR_IO);
}
END_TEST

START_TEST(stays_small) {
    struct journal_options o = options(NULL);
    o.segment_bytes = 4096;
    struct journal *j = open_with(&o);
    struct why why;
    struct journal_stats st;
    ck_assert_int_eq(journal_start(j, &why), 0);
    for (uint64_t n = 1; n <= 500; n++) {
        append(j, accept_of(n));
        step(j, n, 0);
        if (n > 10) append(j, forget_of(n - 10));
        if (n % 5 == 0) ck_assert(settle(j, append(j, class_of())));
    }
    journal_get_stats(j, clk_now_us(), &st);
    ck_assert_uint_gt(st.segments, 10);
    ck_assert_uint_lt(st.segment_bytes, 32768);
    ck_assert_uint_eq(st.live, 10);
    ck_assert_int_eq(files(".journal", false), 1);
    ck_assert_int_eq(files(".new", false), 0);
    journal_close(j);
    j = begin(NULL);
    ck_assert_uint_eq(journal_replayed(j)->n_requests, 10);
    ck_assert_uint_eq(journal_state_find(journal_replayed(j), 491)->n_tokens, 1);
    journal_close(j);
}
END_TEST

static int note_synced(void *ctx, uint64_t offset, const struct journal_record *r, struct why *why) {
    uint64_t *at = ctx;
    (void)why;
    if (r->kind == JOURNAL_SYNCED) ck_assert_uint_eq(r->synced, offset);
    if (r->kind == JOURNAL_ACCEPT) at[r->accept.number] = offset;
    return 0;
}
static int open_damaged(uint64_t at) {
    char path[128], byte;
    struct journal_options o = options(NULL);
    struct journal *j;
    struct why why;
    snprintf(path, sizeof path, "%s/%016x.journal", dir, 1);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert(pread(fd, &byte, 1, (off_t)at) == 1 && pwrite(fd, &(char){byte ^ 1}, 1, (off_t)at) == 1);
    int rc = journal_open(&o, &j, &why), live = rc < 0 ? rc : (int)journal_replayed(j)->n_requests;
    if (rc >= 0) journal_close(j);
    ck_assert(pwrite(fd, &byte, 1, (off_t)at) == 1 && !close(fd));
    return live;
}
/* The power goes while a disk writes in any order: what is damaged behind the last sync is no reason to refuse. */
START_TEST(says_how_far_it_is_synced) {
    struct journal_options o = options(NULL);
    uint64_t at[5] = {0};
    struct journal_visitor v = {note_synced, at};
    struct journal_scan scan;
    struct why why;
    o.sync = JOURNAL_SYNC_ALWAYS;
    struct journal *j = open_with(&o);
    ck_assert_int_eq(journal_start(j, &why), 0);
    for (uint64_t n = 1; n <= 3; n++) ck_assert(settle(j, append(j, accept_of(n))));
    append(j, accept_of(4));
    ck_assert(settle(j, append(j, class_of())));
    journal_close(j);
    ck_assert_int_eq(journal_read(dir, false, &v, &scan, &why), 0);
    ck_assert(at[3] < scan.synced && scan.synced < at[4]);
    ck_assert_int_eq(open_damaged(at[2] + 20), ERR_CORRUPT);
    ck_assert_int_eq(open_damaged(at[4] + 20), 3);
}
END_TEST

START_TEST(full_disk) {
    struct disk d;
    struct why why;
    struct journal_stats st;
    disk_init(&d);
    struct journal *j = begin(&d);
    ck_assert(settle(j, append(j, accept_of(1))));
    step(j, 1, 0);
    d.full = true;
    uint64_t n = append(j, accept_of(2));
    ck_assert(!settle(j, n));
    ck_assert_int_eq(journal_admits(j, clk_now_us(), &why), ERR_GONE);
    ck_assert_msg(strstr(why.text, "No space left on device") && strstr(why.text, dir), "%s", why.text);
    step(j, 1, 1); /* running ones go on */
    append(j, forget_of(2));
    journal_get_stats(j, clk_now_us(), &st);
    ck_assert(st.failed && st.dropped == 1 && st.failures >= 1);
    uint64_t last = append(j, accept_of(3));
    d.full = false;
    recover(j, last);
    ck_assert_int_eq(journal_admits(j, clk_now_us(), &why), 0);
    journal_close(j);
    j = begin(NULL);
    ck_assert_uint_eq(journal_replayed(j)->n_requests, 2);
    ck_assert_uint_eq(journal_state_find(journal_replayed(j), 1)->n_tokens, 1);
    ck_assert_ptr_nonnull(journal_state_find(journal_replayed(j), 3));
    journal_close(j);
}
END_TEST

START_TEST(slow_disk) {
    struct disk d;
    struct why why;
    int gate[2];
    disk_init(&d);
    struct journal_options o = options(&d);
    o.lag_bytes = 1000;
    struct journal *j = open_with(&o);
    ck_assert_int_eq(journal_start(j, &why), 0);
    ck_assert_int_eq(pipe(gate), 0);
    d.gate = gate[0];
    append(j, accept_of(1));
    int64_t now = clk_now_us();
    journal_flush(j, now);
    ck_assert_int_eq(journal_admits(j, now, &why), 0);
    ck_assert_int_eq(journal_admits(j, now + 6000000, &why), ERR_GONE);
    ck_assert(strstr(why.text, "has not moved for 6.") != NULL);
    for (uint64_t n = 2; n < 12; n++) append(j, accept_of(n)); /* it was not asked whether it may */
    ck_assert_int_eq(journal_admits(j, now, &why), ERR_EXHAUSTED);
    step(j, 1, 0);
    struct journal_stats st;
    journal_get_stats(j, now + 1000, &st);
    ck_assert_uint_eq(st.dropped, 1);
    ck_assert_int_ge(st.lag_us, 1000);
    ck_assert_int_eq((int)write(gate[1], "x", 1), 1);
    ck_assert(settle(j, st.records));
    ck_assert_int_eq(journal_admits(j, now, &why), 0);
    journal_close(j);
    close(gate[0]);
    close(gate[1]);
}
END_TEST

/* A life of a journal: how many requests were acknowledged, and how many were put down at all. */
static void live(struct journal *j, uint64_t *acknowledged, uint64_t *appended, bool endure) {
    *acknowledged = *appended = 0;
    for (uint64_t n = 1; n <= 12; n++) {
        uint64_t at = append(j, accept_of(n));
        *appended = n;
        step(j, n, 0);
        if (endure) recover(j, at);
        else if (!settle(j, at)) return;
        *acknowledged = n;
        if (n > 2) append(j, forget_of(n - 2));
    }
}

/* What had been said to be safe is there, nothing else has appeared, and nothing is half there. */
static void check_life(uint64_t acknowledged, uint64_t appended) {
    struct journal_options o = options(NULL);
    struct journal *j = open_with(&o);
    const struct journal_state *s = journal_replayed(j);
    struct list *at, *next;
    for (uint64_t n = acknowledged > 2 ? acknowledged - 1 : 1; n <= acknowledged; n++) /* those before may be forgotten */
        ck_assert_msg(journal_state_find(s, n), "request %d of %d is lost", (int)n, (int)acknowledged);
    list_for(at, next, &s->requests) {
        struct journal_request *q = list_entry(at, struct journal_request, node);
        ck_assert_uint_le(q->accept.number, appended);
        ck_assert_uint_eq(q->accept.n_ids, 1 + q->accept.number % 5);
    }
    struct why why = {""};
    ck_assert_msg(journal_start(j, &why) == 0, "%s", why.text);
    ck_assert_int_eq(files(".journal", false), 1);
    ck_assert_int_eq(files(".new", false), 0);
    journal_close(j);
}

/* The disk fails at operation k and, for ever, after it: as if the machine died there. True when k was reached. */
static bool fail_at(int k, bool for_ever, enum journal_sync sync) {
    struct disk d;
    struct why why;
    uint64_t acknowledged = 0, appended = 0;
    disk_init(&d);
    struct journal_options o = options(&d);
    o.sync = sync;
    o.segment_bytes = 256; /* a new segment at every opportunity */
    d.fail_at = k;
    d.for_ever = for_ever;
    struct journal *j = open_with(&o);
    int rc = journal_start(j, &why);
    if (rc >= 0) live(j, &acknowledged, &appended, !for_ever);
    else ck_assert_int_le(k, 8);
    journal_close(j);
    check_life(acknowledged, appended);
    if (!for_ever && rc >= 0) ck_assert_uint_eq(acknowledged, 12);
    bool reached = d.op > k;
    clear_dir();
    return reached;
}

START_TEST(fails_everywhere) {
    static const enum journal_sync sync[] = {JOURNAL_SYNC_ALWAYS, JOURNAL_SYNC_INTERVAL, JOURNAL_SYNC_NEVER};
    int k = 0;
    while (fail_at(k, _i & 1, sync[_i / 2])) k++;
    ck_assert_int_gt(k, 20);
}
END_TEST

int main(void) {
    Suite *s = suite_create("journal");
    TCase *bytes = tcase_create("bytes"), *disk = tcase_create("disk");
    tcase_add_test(bytes, records_come_back);
    tcase_add_test(bytes, torn_anywhere);
    tcase_add_test(bytes, a_bit_anywhere);
    tcase_add_test(bytes, what_stood_elsewhere);
    tcase_add_test(bytes, states);
    tcase_set_timeout(bytes, 60);
    tcase_add_checked_fixture(disk, make_dir, drop_dir);
    tcase_add_test(disk, a_new_folder);
    tcase_add_test(disk, remembers);
    tcase_add_test(disk, one_owner);
    tcase_add_test(disk, stays_small);
    tcase_add_test(disk, says_how_far_it_is_synced);
    tcase_add_test(disk, full_disk);
    tcase_add_test(disk, slow_disk);
    tcase_add_loop_test(disk, fails_everywhere, 0, 6);
    tcase_set_timeout(disk, 120);
    suite_add_tcase(s, bytes);
    suite_add_tcase(s, disk);
    return run_suite(s);
}
