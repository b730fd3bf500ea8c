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
    bool asked;        /* one of those that this rank measures */
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
    struct link link[FABRIC_MAX_RANKS];
};

bool probe_is_frame(const void *frame, size_t bytes) {
    uint32_t magic = 0;
    if (bytes >= sizeof magic) memcpy(&magic, frame, sizeof magic);
    return magic == MAGIC;
}

/* The rank of each host that this one asks: its neighbour here; elsewhere the one with the same place on its host. */
static void choose_links(struct run *r, const uint8_t *host) {
    const int size = r->fabric->size, me = r->fabric->rank;
    int place = 0;
    for (int w = 0; w < me; w++) place += host[w] == host[me];
    for (int first = 0; first < size; first++) {
        int there[FABRIC_MAX_RANKS], n = 0;
        for (int w = 0; w < size; w++)
            if (host[w] == host[first]) there[n++] = w;
        if (there[0] != first) continue;
        int to = there[(host[first] == host[me] ? place + 1 : place) % n];
        r->link[to].asked = to != me;
    }
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
        else if (l->asked && l->sent_us && f.number == l->number) answered(l, clk_now_us());
    }
}

/* What there is to say to a peer now, as far as there is room. */
static void speak(struct run *r, int to, bool done) {
    struct link *l = &r->link[to];
    if (l->owes_pong) l->owes_pong = !send(r, to, PONG, l->pong, SMALL);
    if (l->asked && l->size < SIZES && !l->sent_us) {
        int64_t now_us = clk_now_us();
        if (send(r, to, PING, l->number, size_of(r, l->size))) l->sent_us = now_us;
    }
    if (done && !l->told) l->told = send(r, to, DONE, 0, SMALL);
}

/* One look at every peer. true: nobody needs this rank any more, nor it anybody. */
static bool turn(struct run *r) {
    bool done = true, over = true;
    for (int w = 0; w < r->fabric->size; w++)
        if (w != r->fabric->rank) take(r, w);
    for (int w = 0; w < r->fabric->size; w++) done &= !r->link[w].asked || r->link[w].size == SIZES;
    for (int w = 0; w < r->fabric->size; w++) {
        if (w == r->fabric->rank) continue;
        speak(r, w, done);
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
    struct run r = {.fabric = f};
    *out = (struct probe){0};
    if (f->size < 2 || f->frame_bytes <= SMALL) return;
    choose_links(&r, host);
    while (!turn(&r) && clk_now_us() < deadline_us)
        if (fabric_wait(f, deadline_us) < 0) break;
    (void)fabric_flush(f, deadline_us); /* whoever still waits for a word of this rank gets it */
    for (int w = 0; w < f->size; w++)
        if (r.link[w].asked) keep_slower(host[w] == host[f->rank] ? &out->inside : &out->between, figure_of(&r, &r.link[w]));
}
