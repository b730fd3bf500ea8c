/* probe.c - see probe.h. One frame is under way in each direction of a pair, so no stream fills up. */
#include "fabric/probe.h"

#include <string.h>

#include "base/clk.h"

enum { MAGIC = 0x72506443, VERSION = 1, SMALL = 64 }; /* "CdPr" */
enum kind { PING, PONG, DONE };

struct frame {
    uint32_t magic;
    uint16_t version;
    uint8_t kind, pad;
    uint32_t number; /* of a ping, and of the pong that answers it */
};
_Static_assert(sizeof(struct frame) <= SMALL, "fits a small frame");

/* Pings in this order; what is larger than the fabric's frames is cut to these. */
static const struct {
    size_t bytes;
    int times;
} table[] = {{SMALL, 8}, {16 << 10, 2}, {64 << 10, 2}, {256 << 10, 4}};
enum { SIZES = sizeof table / sizeof *table };

struct link {
    int size, time;    /* of table: the ping that is next, or under way; size == SIZES: all answered */
    uint32_t number;   /* of it */
    int64_t sent_us;   /* 0: not sent yet */
    int64_t best_us[SIZES]; /* round trips */
    int answers[SIZES];     /* so many of each */
    bool owes_pong;    /* to its ping of this number: */
    uint32_t pong;
    bool told, heard;  /* DONE, there and back */
};

struct run {
    struct fabric *fabric;
    int64_t deadline_us;
    struct link link[FABRIC_MAX_RANKS];
    int ask[FABRIC_MAX_RANKS], n, at; /* whom this rank asks, in this order; at == n: it has asked all */
    int64_t next_us;                  /* when it goes on to the next one, whatever has come */
};

bool probe_is_frame(const void *frame, size_t bytes) {
    uint32_t magic = 0;
    if (bytes >= sizeof magic) memcpy(&magic, frame, sizeof magic);
    return magic == MAGIC;
}

/* On its own host its neighbour, elsewhere the rank with the same place on its host; hosts in turn from this one on, so that
 * not all ask the same one at a time. */
static void choose_links(struct run *r, const uint8_t *host) {
    const int size = r->fabric->size, me = r->fabric->rank;
    int place = 0;
    for (int w = 0; w < me; w++) place += host[w] == host[me];
    for (int turn = 0; turn < FABRIC_MAX_RANKS; turn++) {
        int there[FABRIC_MAX_RANKS], n = 0;
        for (int w = 0; w < size; w++)
            if (host[w] == (host[me] + turn) % FABRIC_MAX_RANKS) there[n++] = w;
        int to = n ? there[(turn ? place : place + 1) % n] : me;
        if (to != me) r->ask[r->n++] = to;
    }
}

/* The next one to ask, when this one has answered all or had its part of the time. */
static void go_on(struct run *r) {
    int64_t now_us = clk_now_us();
    if (r->at == r->n || (r->next_us && r->link[r->ask[r->at]].size < SIZES && now_us < r->next_us)) return;
    if (r->next_us) r->at++;
    if (r->at < r->n) r->next_us = now_us + (r->deadline_us - now_us) / (r->n - r->at + 1);
}

static size_t size_of(const struct run *r, int size) {
    return table[size].bytes < r->fabric->frame_bytes ? table[size].bytes : r->fabric->frame_bytes;
}

/* false: no room now. No byte of another frame leaves the process. */
static bool send(struct run *r, int to, enum kind kind, uint32_t number, size_t bytes) {
    unsigned char *room = fabric_reserve(r->fabric, to, bytes);
    if (!room) return false;
    memset(room, 0, bytes);
    *(struct frame *)room = (struct frame){.magic = MAGIC, .version = VERSION, .kind = (uint8_t)kind, .number = number};
    fabric_commit(r->fabric, to, bytes);
    return true;
}

static void answered(struct link *l, int64_t now_us) {
    int64_t us = now_us > l->sent_us ? now_us - l->sent_us : 1;
    if (!l->answers[l->size]++ || us < l->best_us[l->size]) l->best_us[l->size] = us;
    l->sent_us = 0;
    l->number++;
    if (++l->time < table[l->size].times) return;
    l->time = 0;
    l->size++;
}

static void take(struct run *r, int from) {
    struct link *l = &r->link[from];
    size_t bytes;
    for (const void *frame; (frame = fabric_take(r->fabric, from, &bytes));) {
        struct frame f = {0};
        if (bytes >= sizeof f && probe_is_frame(frame, bytes)) memcpy(&f, frame, sizeof f);
        fabric_give(r->fabric, from, frame);
        if (f.magic != MAGIC || f.version != VERSION) continue;
        if (f.kind == PING) l->owes_pong = true, l->pong = f.number;
        else if (f.kind == DONE) l->heard = true;
        else if (l->sent_us && f.number == l->number) answered(l, clk_now_us());
    }
}

/* What there is to say to a peer now, as far as there is room. */
static void speak(struct run *r, int to) {
    struct link *l = &r->link[to];
    if (l->owes_pong) l->owes_pong = !send(r, to, PONG, l->pong, SMALL);
    if (r->at < r->n && r->ask[r->at] == to && l->size < SIZES && !l->sent_us) {
        int64_t now_us = clk_now_us();
        if (send(r, to, PING, l->number, size_of(r, l->size))) l->sent_us = now_us;
    }
    if (r->at == r->n && !l->told) l->told = send(r, to, DONE, 0, SMALL);
}

/* One look at every peer. true: nobody needs this rank any more, nor it anybody. */
static bool turn(struct run *r) {
    bool over = true;
    for (int w = 0; w < r->fabric->size; w++)
        if (w != r->fabric->rank) take(r, w);
    go_on(r);
    for (int w = 0; w < r->fabric->size; w++) {
        if (w == r->fabric->rank) continue;
        speak(r, w);
        over &= r->link[w].told && r->link[w].heard;
    }
    return over;
}

/* By the largest frames that were answered, as the deadline allowed: on a slow link not the largest there are. A single one
 * says nothing, it may have met a process that was not running. */
static struct probe_link figure_of(const struct run *r, const struct link *l) {
    int largest = SIZES - 1;
    while (largest > 0 && l->answers[largest] < 2) largest--;
    if (!largest) return (struct probe_link){0};
    double small_us = (double)l->best_us[0], more_us = (double)l->best_us[largest] - small_us;
    if (more_us < small_us / 10) more_us = small_us / 10; /* not to be told from waking up a little later */
    return (struct probe_link){.latency_us = small_us / 2,
                               .bytes_per_us = (double)(size_of(r, largest) - SMALL) / (more_us > 1 ? more_us : 1)};
}

static void keep_slower(struct probe_link *kept, struct probe_link one) {
    if (one.bytes_per_us <= 0) return;
    if (one.latency_us > kept->latency_us) kept->latency_us = one.latency_us;
    if (kept->bytes_per_us <= 0 || one.bytes_per_us < kept->bytes_per_us) kept->bytes_per_us = one.bytes_per_us;
}

void probe_run(struct fabric *f, const uint8_t *host, int64_t deadline_us, struct probe *out) {
    struct run r = {.fabric = f, .deadline_us = deadline_us};
    *out = (struct probe){0};
    if (f->size < 2 || f->frame_bytes <= SMALL) return;
    choose_links(&r, host);
    while (!turn(&r) && clk_now_us() < deadline_us) {
        int64_t wake_us = r.at < r.n && r.next_us < deadline_us ? r.next_us : deadline_us;
        int rc = fabric_wait(f, wake_us);
        if (rc < 0 && rc != ERR_DEADLINE) break;
    }
    (void)fabric_flush(f, deadline_us); /* whoever still waits for a word of this rank gets it */
    for (int i = 0; i < r.n; i++) {
        int w = r.ask[i];
        keep_slower(host[w] == host[f->rank] ? &out->inside : &out->between, figure_of(&r, &r.link[w]));
    }
}
