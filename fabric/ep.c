/* ep.c - the exchange: packs frames by the layout, moves them over a fabric, counts them in.
 *
 * One layer at one worker:
 *
 *   READY ─dispatch_post─► DISPATCHING ─all sent─► DISPATCHED ─dispatch_wait─► WORKING
 *     ▲                                                                          │ combine_post
 *     └──────combine_wait── ANSWERED ◄─all sent── ANSWERING ◄────────────────────┘
 *
 * step_begin leads back to READY from anywhere. A post that ran into its deadline may be called again and goes on where it
 * stopped; so may a wait.
 *
 * Frames stay where they arrived: an accepted frame is left unreleased at the head of its stream ("held") while its rows are
 * in use. Dispatch frames are released when their rows were grouped, combine frames at the next dispatch_post. A frame of a
 * later phase waits, unreleased, at the head of its stream until its phase comes; older ones are dropped as soon as seen.
 *
 * Why two frames per stream suffice, so that posting blocks only on a worker that stands still: of the frames from A to B,
 * a dispatch is followed by nothing until B answered it, and B took it out of the stream before it answered; a combine is
 * sent only on a dispatch of B, and before B dispatches again it releases it. So at most one dispatch and one combine are in
 * the stream, also across steps and however many steps A runs ahead without B. A given-up step leaves at most two more, which
 * B drops on the way to the next epoch. While a post waits for room it goes on dropping, so two workers that wait for each
 * other's room both get it. */
#include "fabric/ep.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clk.h"
#include "base/log.h"
#include "fabric/ep_frame.h"
#include "fabric/ep_layout.h"

enum { MAX_TOKENS = 65535, MAX_SLOTS = 32767, MAX_TOPK = 256, MAX_HIDDEN = 1 << 20, MAX_EXTRA = 16, MAX_LAYER = 65535 };
enum phase { READY, DISPATCHING, DISPATCHED, WORKING, ANSWERING, ANSWERED };

struct ep {
    struct fabric *fabric; /* NULL when alone */
    struct ep_limits lim;
    int rank, size;
    uint64_t others; /* mask of everyone else */

    struct ep_key key; /* what is being exchanged now */
    enum phase phase;
    int32_t tokens[FABRIC_MAX_RANKS]; /* of the plan */
    uint64_t sources;                 /* others with tokens: they dispatch to us and expect an answer */
    bool brings;                      /* we have tokens: we dispatch to all others and get their answers */

    struct ep_send send;
    struct ep_split split;
    struct ep_group group;
    float *x, *y, *extra; /* [R * T max * k, H] twice and [.., X], address space until used */
    size_t map_bytes;

    uint64_t posted; /* who has been sent this phase's frame */
    uint64_t held;   /* whose accepted frame is unreleased */
    const void *frame[FABRIC_MAX_RANKS]; /* held */
    struct parked {                      /* taken out of its stream, and not judged yet */
        const void *frame;
        size_t bytes;
    } next[FABRIC_MAX_RANKS];
    struct ep_key last[FABRIC_MAX_RANKS]; /* of the frame accepted last */
    uint64_t complained;                  /* about whom in this step: one line each */
    struct ep_counters count;
};

static uint64_t bit(int worker) { return UINT64_C(1) << worker; }
static int next_of(uint64_t *mask) {
    int w = __builtin_ctzll(*mask);
    *mask &= *mask - 1;
    return w;
}
static size_t row_floats(const struct ep *ep, size_t rows) { return rows * (size_t)ep->lim.hidden; }
static int max_pairs(const struct ep *ep) { return ep->lim.max_tokens * ep->lim.topk; }

static void set_phase(struct ep *ep, enum phase to) {
    static const char *const names[] = {"READY", "DISPATCHING", "DISPATCHED", "WORKING", "ANSWERING", "ANSWERED"};
    enum phase from = ep->phase;
    if (to != READY && to != from && to != from + 1) BUG("ep: %s to %s", names[from], names[to]);
    if (to == from && to != READY && to != DISPATCHING && to != ANSWERING) BUG("ep: %s twice", names[to]);
    ep->phase = to;
}

static void release_held(struct ep *ep) {
    while (ep->held) {
        int peer = next_of(&ep->held);
        fabric_give(ep->fabric, peer, ep->frame[peer]);
    }
}

static const void *peek(struct ep *ep, int peer, size_t *bytes) {
    struct parked *p = &ep->next[peer];
    if (!p->frame) p->frame = fabric_take(ep->fabric, peer, &p->bytes);
    *bytes = p->bytes;
    return p->frame;
}

static void drop(struct ep *ep, int peer) {
    fabric_give(ep->fabric, peer, ep->next[peer].frame);
    ep->next[peer].frame = NULL;
}

/* ---- life ---- */

size_t ep_frame_bytes(const struct ep_limits *l) {
    int pairs = l->max_tokens * l->topk;
    size_t dispatch = ep_dispatch_bytes(l->max_tokens, pairs, l->hidden),
           combine = ep_combine_bytes(pairs, l->hidden, l->extra);
    return dispatch > combine ? dispatch : combine;
}

size_t ep_bytes(const struct ep_limits *l, int workers) {
    size_t rows = (size_t)workers * (size_t)l->max_tokens * (size_t)l->topk;
    return rows * (2 * (size_t)l->hidden + (size_t)l->extra) * sizeof(float);
}

static int check_limits(const struct fabric *f, const struct ep_limits *l, struct why *why) {
    if (l->max_tokens < 1 || l->max_tokens > MAX_TOKENS)
        return fail(why, ERR_INVALID, "ep: %d tokens per worker and step, expected 1..%d", l->max_tokens, MAX_TOKENS);
    if (l->max_slots < 1 || l->max_slots > MAX_SLOTS)
        return fail(why, ERR_INVALID, "ep: %d slots per layer, expected 1..%d", l->max_slots, MAX_SLOTS);
    if (l->topk < 1 || l->topk > MAX_TOPK) return fail(why, ERR_INVALID, "ep: top-%d, expected 1..%d", l->topk, MAX_TOPK);
    if (l->hidden < 1 || l->hidden > MAX_HIDDEN)
        return fail(why, ERR_INVALID, "ep: rows of %d elements, expected 1..%d", l->hidden, MAX_HIDDEN);
    if (l->extra < 0 || l->extra > MAX_EXTRA)
        return fail(why, ERR_INVALID, "ep: %d floats beside each row, expected 0..%d", l->extra, MAX_EXTRA);
    int64_t rows = (int64_t)(f ? f->size : 1) * l->max_tokens * l->topk;
    if (rows > INT32_MAX / 2) return fail(why, ERR_TOO_LARGE, "ep: %lld rows in one layer of a step", (long long)rows);
    if (f && ep_frame_bytes(l) > f->frame_bytes)
        return fail(why, ERR_TOO_LARGE, "ep: frames of %zu bytes, the fabric carries %zu", ep_frame_bytes(l), f->frame_bytes);
    return 0;
}

int ep_new(struct fabric *f, const struct ep_limits *l, struct ep **out, struct why *why) {
    int rc = check_limits(f, l, why);
    if (rc < 0) return rc;
    struct ep *ep = calloc(1, sizeof *ep);
    if (!ep) return fail(why, ERR_NOMEM, "ep: out of memory");
    ep->fabric = f;
    ep->lim = *l;
    ep->rank = f ? f->rank : 0;
    ep->size = f ? f->size : 1;
    ep->others = (ep->size == 64 ? UINT64_MAX : bit(ep->size) - 1) & ~bit(ep->rank);
    size_t floats = row_floats(ep, (size_t)ep->size * (size_t)max_pairs(ep));
    ep->map_bytes = ep_bytes(l, ep->size);
    void *map = mmap(NULL, ep->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map != MAP_FAILED) {
        ep->x = map;
        ep->y = ep->x + floats;
        ep->extra = ep->y + floats;
    }
    if (!ep->x || ep_split_init(&ep->split, ep->size, l->max_tokens, l->topk) < 0 ||
        ep_group_init(&ep->group, ep->size, l->max_slots, max_pairs(ep)) < 0) {
        ep_free(ep);
        return fail(why, ERR_NOMEM, "ep: no memory for rows of %d tokens from each of %d workers; lower the largest step",
                    l->max_tokens, f ? f->size : 1);
    }
    *out = ep;
    return 0;
}

void ep_free(struct ep *ep) {
    if (!ep) return;
    release_held(ep);
    for (int peer = 0; peer < ep->size; peer++)
        if (ep->next[peer].frame) drop(ep, peer);
    ep_split_clear(&ep->split);
    ep_group_clear(&ep->group);
    if (ep->x) munmap(ep->x, ep->map_bytes);
    free(ep);
}

const struct ep_counters *ep_counters(const struct ep *ep) { return &ep->count; }

void ep_step_begin(struct ep *ep, uint32_t epoch, uint64_t step, const int32_t *tokens) {
    set_phase(ep, READY);
    ep->key = (struct ep_key){.epoch = epoch, .step = step, .layer = 0, .kind = EP_DISPATCH};
    ep->sources = 0;
    ep->complained = 0;
    for (int w = 0; w < ep->size; w++) {
        if (tokens[w] < 0 || tokens[w] > ep->lim.max_tokens)
            BUG("ep: the plan gives worker %d %d tokens, at most %d", w, tokens[w], ep->lim.max_tokens);
        ep->tokens[w] = tokens[w];
        if (tokens[w] && w != ep->rank) ep->sources |= bit(w);
    }
    ep->brings = tokens[ep->rank] > 0;
}

/* ---- receiving ---- */

static int refuse(struct ep *ep, int peer, const struct why *why, uint64_t *late) {
    ep->count.frames_bad++;
    if (!(ep->complained & bit(peer)))
        log_error("ep: worker %d dropped a frame from worker %d (epoch %u, step %llu, layer %d): %s", ep->rank, peer,
                  ep->key.epoch, (unsigned long long)ep->key.step, ep->key.layer, why->text);
    ep->complained |= bit(peer);
    drop(ep, peer);
    *late = bit(peer);
    return ERR_PROTOCOL;
}

/* Drops frames that are behind the exchange from peer's stream. Returns 1 with the first other one opened, 0 when there is
 * none, ERR_PROTOCOL (frame left in place) when the first other one is no frame of ours. */
static int drop_old(struct ep *ep, int peer, const struct ep_header **out, struct why *why) {
    size_t bytes;
    for (const void *frame; (frame = peek(ep, peer, &bytes)); drop(ep, peer)) {
        int rc = ep_frame_open(frame, bytes, peer, out, why);
        if (rc < 0) return rc;
        struct ep_key key = ep_frame_key(*out);
        if (ep_key_order(&key, &ep->key) >= 0) return 1;
        if (ep_key_order(&key, &ep->last[peer]) == 0) ep->count.frames_duplicate++;
        else ep->count.frames_stale++;
    }
    return 0;
}

static int check(const struct ep *ep, int peer, const struct ep_header *h, struct why *why) {
    if (h->kind == EP_COMBINE) {
        if (!ep->brings) return fail(why, ERR_PROTOCOL, "an answer, but nothing was asked");
        return ep_frame_check_combine(h, ep->split.pairs[peer], ep->lim.hidden, ep->lim.extra, why);
    }
    if (!ep->tokens[peer]) return fail(why, ERR_PROTOCOL, "a dispatch, but the plan gives it no tokens");
    const struct ep_bounds b = {
        .tokens = ep->tokens[peer], .topk = ep->lim.topk, .slots = ep->group.slots, .hidden = ep->lim.hidden};
    return ep_frame_check_dispatch(h, &b, why);
}

/* Accepts peer's frame of this phase if it is there. since_us: when the wait began, 0 = it has not. */
static int take(struct ep *ep, int peer, int64_t since_us, uint64_t *late) {
    const struct ep_header *h;
    struct why why;
    int rc = drop_old(ep, peer, &h, &why);
    if (rc == 0) return 0;
    if (rc < 0) return refuse(ep, peer, &why, late);
    struct ep_key key = ep_frame_key(h);
    if (ep_key_order(&key, &ep->key) > 0) return 0; /* its phase will come */
    rc = check(ep, peer, h, &why);
    if (rc < 0) return refuse(ep, peer, &why, late);
    ep->frame[peer] = h;
    ep->next[peer].frame = NULL;
    ep->held |= bit(peer);
    ep->last[peer] = key;
    if (since_us) ep->count.wait_us[peer] += (uint64_t)(clk_now_us() - since_us);
    return 0;
}

/* Waits until every worker in `from` has a frame of this phase held. Everyone else's streams are kept clean meanwhile. */
static int receive(struct ep *ep, uint64_t from, int64_t deadline_us, uint64_t *late) {
    for (int64_t since_us = 0;;) {
        for (uint64_t look = ep->others & ~ep->held; look;) {
            int rc = take(ep, next_of(&look), since_us, late);
            if (rc < 0) return rc;
        }
        uint64_t missing = from & ~ep->held;
        if (!missing) return 0;
        if (!since_us) since_us = clk_now_us();
        int rc = fabric_wait(ep->fabric, deadline_us);
        if (rc == ERR_DEADLINE) {
            uint64_t waited_us = (uint64_t)(clk_now_us() - since_us);
            *late = missing;
            while (missing) ep->count.wait_us[next_of(&missing)] += waited_us;
            return ERR_LATE;
        }
        if (rc < 0) return rc;
    }
}

/* ---- sending ---- */

/* Packs the frame of this phase for a worker straight into the fabric's memory. false: no room now. */
static bool send_dispatch(struct ep *ep, int to) {
    int tokens = ep->split.tokens[to], pairs = ep->split.pairs[to], H = ep->lim.hidden;
    size_t bytes = ep_dispatch_bytes(tokens, pairs, H);
    void *room = fabric_reserve(ep->fabric, to, bytes);
    if (!room) return false;
    ep_frame_begin(room, &ep->key, ep->rank, &(struct ep_counts){tokens, pairs, H, 0});
    const struct ep_pair *list = ep->split.pair + (size_t)to * (size_t)max_pairs(ep);
    memcpy(ep_frame_pairs(room), list, (size_t)pairs * sizeof *list);
    const int32_t *token = ep->split.token + (size_t)to * (size_t)ep->lim.max_tokens;
    float *rows = ep_frame_rows(room);
    for (int i = 0; i < tokens; i++)
        memcpy(rows + row_floats(ep, (size_t)i), ep->send.x + row_floats(ep, (size_t)token[i]),
               row_floats(ep, 1) * sizeof *rows);
    fabric_commit(ep->fabric, to, bytes);
    ep->count.dispatch_rows += (uint64_t)tokens;
    ep->count.dispatch_bytes += row_floats(ep, (size_t)tokens) * sizeof *rows;
    return true;
}

static bool send_combine(struct ep *ep, int to) {
    int pairs = ep->group.pairs[to], H = ep->lim.hidden, X = ep->lim.extra;
    size_t bytes = ep_combine_bytes(pairs, H, X);
    void *room = fabric_reserve(ep->fabric, to, bytes);
    if (!room) return false;
    ep_frame_begin(room, &ep->key, ep->rank, &(struct ep_counts){0, pairs, H, X});
    const int32_t *row = ep->group.row + (size_t)to * (size_t)max_pairs(ep);
    float *rows = ep_frame_rows(room);
    for (int i = 0; i < pairs; i++)
        memcpy(rows + row_floats(ep, (size_t)i), ep->y + row_floats(ep, (size_t)row[i]), row_floats(ep, 1) * sizeof *rows);
    float *extras = ep_frame_extras(room);
    for (int i = 0; i < pairs * X; i++) extras[i] = ep->extra[row[i / X] * X + i % X];
    fabric_commit(ep->fabric, to, bytes);
    ep->count.combine_rows += (uint64_t)pairs;
    ep->count.combine_bytes += (row_floats(ep, (size_t)pairs) + (size_t)(pairs * X)) * sizeof *rows;
    return true;
}

/* Sends to everyone in `to` who has not been sent this phase's frame yet, each worker starting behind itself so that not all
 * of them write to the same one at once. */
static int post(struct ep *ep, uint64_t to, bool (*send)(struct ep *ep, int to), int64_t deadline_us) {
    for (;;) {
        for (int i = 1; i < ep->size; i++) {
            int w = (ep->rank + i) % ep->size;
            if ((to & ~ep->posted & bit(w)) && send(ep, w)) ep->posted |= bit(w);
        }
        if (!(to & ~ep->posted)) return 0;
        for (uint64_t look = ep->others & ~ep->held; look;) {
            const struct ep_header *h;
            struct why why; /* a frame that is none of ours stays for the next wait to refuse */
            drop_old(ep, next_of(&look), &h, &why);
        }
        int rc = fabric_wait(ep->fabric, deadline_us);
        if (rc < 0) return rc == ERR_DEADLINE ? ERR_LATE : rc;
    }
}

/* ---- the four halves ---- */

static void check_routes(const struct ep *ep, const struct ep_send *s) {
    for (int i = 0; i < s->tokens * ep->lim.topk; i++) {
        if (s->worker[i] == -1) continue;
        int slots = s->worker[i] == ep->rank ? ep->group.slots : ep->lim.max_slots; /* others check theirs */
        if (s->worker[i] < 0 || s->worker[i] >= ep->size || s->slot[i] < 0 || s->slot[i] >= slots)
            BUG("ep: route %d goes to worker %d of %d, slot %d of %d", i, s->worker[i], ep->size, s->slot[i], slots);
    }
}

static void begin_dispatch(struct ep *ep, int layer, const struct ep_send *send, int slots) {
    set_phase(ep, DISPATCHING);
    if (layer < 0 || layer > MAX_LAYER) BUG("ep: layer %d", layer);
    if (slots < 0 || slots > ep->lim.max_slots) BUG("ep: %d slots, at most %d", slots, ep->lim.max_slots);
    ep->key.layer = layer;
    ep->key.kind = EP_DISPATCH;
    ep->posted = 0;
    ep->group.slots = slots;
    ep->send = send ? *send : (struct ep_send){0};
    if (ep->send.tokens < 0 || ep->send.tokens > ep->tokens[ep->rank])
        BUG("ep: worker %d brings %d tokens, the plan says %d", ep->rank, ep->send.tokens, ep->tokens[ep->rank]);
    check_routes(ep, &ep->send);
    ep_split_make(&ep->split, ep->send.tokens, ep->send.worker, ep->send.slot);
    if (ep->fabric) release_held(ep); /* before anything is sent: see the argument at the top */
}

int ep_dispatch_post(struct ep *ep, int layer, const struct ep_send *send, int slots, int64_t deadline_us) {
    if (ep->phase != DISPATCHING) begin_dispatch(ep, layer, send, slots);
    else if (layer != ep->key.layer) BUG("ep: dispatch of layer %d while layer %d is being posted", layer, ep->key.layer);
    int rc = ep->brings && ep->others ? post(ep, ep->others, send_dispatch, deadline_us) : 0;
    if (rc < 0) return rc;
    set_phase(ep, DISPATCHED);
    return 0;
}

/* Copies the rows of one source to where group wants them; token copies of one row fan out here. */
static void place_rows(struct ep *ep, int from, const struct ep_pair *pair, const float *rows, const int32_t *token) {
    const int32_t *row = ep->group.row + (size_t)from * (size_t)max_pairs(ep);
    for (int i = 0; i < ep->group.pairs[from]; i++) {
        size_t at = (size_t)(token ? token[pair[i].token] : pair[i].token);
        memcpy(ep->x + row_floats(ep, (size_t)row[i]), rows + row_floats(ep, at), row_floats(ep, 1) * sizeof *rows);
    }
}

/* The payload format of frames would be applied to the local rows here; f32 leaves them as they are. */
static void group_rows(struct ep *ep) {
    const struct ep_pair *pairs[FABRIC_MAX_RANKS] = {0};
    int n[FABRIC_MAX_RANKS] = {0};
    size_t me = (size_t)ep->rank;
    pairs[me] = ep->split.pair + me * (size_t)max_pairs(ep);
    n[me] = ep->split.pairs[me];
    for (uint64_t from = ep->sources; from;) {
        int w = next_of(&from);
        const struct ep_header *h = ep->frame[w];
        pairs[w] = ep_frame_pairs((void *)h);
        n[w] = (int)h->pairs;
    }
    ep_group_make(&ep->group, ep->group.slots, pairs, n);
    place_rows(ep, ep->rank, pairs[me], ep->send.x, ep->split.token + me * (size_t)ep->lim.max_tokens);
    for (uint64_t from = ep->sources; from;) {
        int w = next_of(&from);
        place_rows(ep, w, pairs[w], ep_frame_rows((void *)ep->frame[w]), NULL);
    }
}

int ep_dispatch_wait(struct ep *ep, struct ep_work *out, int64_t deadline_us, uint64_t *late) {
    if (ep->phase != DISPATCHED) BUG("ep: dispatch_wait in phase %d", (int)ep->phase);
    int rc = ep->sources ? receive(ep, ep->sources, deadline_us, late) : 0;
    if (rc < 0) return rc;
    group_rows(ep);
    if (ep->fabric) release_held(ep);
    set_phase(ep, WORKING);
    *out = (struct ep_work){.rows = ep->group.rows,
                            .x = ep->x,
                            .y = ep->y,
                            .extra = ep->extra,
                            .first = ep->group.first,
                            .slots = ep->group.slots};
    return 0;
}

int ep_combine_post(struct ep *ep, int64_t deadline_us) {
    if (ep->phase != ANSWERING) {
        set_phase(ep, ANSWERING);
        ep->key.kind = EP_COMBINE;
        ep->posted = 0;
    }
    int rc = ep->sources ? post(ep, ep->sources, send_combine, deadline_us) : 0;
    if (rc < 0) return rc;
    set_phase(ep, ANSWERED);
    return 0;
}

int ep_combine_wait(struct ep *ep, const float **rows, int64_t deadline_us, uint64_t *late) {
    if (ep->phase != ANSWERED) BUG("ep: combine_wait in phase %d", (int)ep->phase);
    int rc = ep->brings && ep->others ? receive(ep, ep->others, deadline_us, late) : 0;
    if (rc < 0) return rc;
    const int32_t *own = ep->group.row + (size_t)ep->rank * (size_t)max_pairs(ep);
    for (int i = 0; i < ep->send.tokens * ep->lim.topk; i++) {
        int w = ep->send.worker[i], pair = ep->split.pair_of[i];
        rows[i] = NULL;
        if (w < 0) continue;
        const float *from = w == ep->rank ? ep->y + row_floats(ep, (size_t)own[pair])
                                          : (const float *)ep_frame_rows((void *)ep->frame[w]) + row_floats(ep, (size_t)pair);
        rows[i] = from;
    }
    set_phase(ep, READY);
    return 0;
}

void ep_extras(const struct ep *ep, float *out) {
    const int32_t *own = ep->group.row + (size_t)ep->rank * (size_t)max_pairs(ep);
    size_t X = (size_t)ep->lim.extra;
    for (int i = 0; i < ep->send.tokens * ep->lim.topk; i++, out += X) {
        int w = ep->send.worker[i], pair = ep->split.pair_of[i];
        if (w < 0) memset(out, 0, X * sizeof *out);
        else if (w == ep->rank) memcpy(out, ep->extra + (size_t)own[pair] * X, X * sizeof *out);
        else memcpy(out, ep_frame_extras((void *)ep->frame[w]) + (size_t)pair * X, X * sizeof *out);
    }
}

int ep_flush(struct ep *ep, int64_t deadline_us) { return ep->fabric ? fabric_flush(ep->fabric, deadline_us) : 0; }
