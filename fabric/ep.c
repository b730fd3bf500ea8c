/* ep.c - the exchange: who asks whom for what, phase by phase; frames are packed in ep_send.c and filed in ep_inbox.c.
 *
 * One layer of one microbatch at one worker:
 *
 *   READY ─dispatch_post─► DISPATCHING ─all sent─► DISPATCHED ─dispatch_wait─► WORKING
 *     ▲                                                                          │ combine_post
 *     └──────combine_wait── ANSWERED ◄─all sent── ANSWERING ◄────────────────────┘
 *
 * step_begin leads back to READY from anywhere. A post that ran into its deadline may be called again and goes on where it
 * stopped; so may a wait.
 *
 * How much may be in a stream: per microbatch one dispatch and one answer (ep_inbox.c), of one frame each if no worker asks for
 * more than twice its share: with two microbatches half of FABRIC_DEPTH, and to a neighbour besides one dispatch for each home
 * that this worker relays for. A given-up step leaves as much again, which the peer drops on the way to the next one. So
 * posting blocks only on a worker that stands still, or while it takes out what is more than that, part by part. */
#include "fabric/ep.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clk.h"
#include "base/log.h"
#include "fabric/ep_fixed.h"
#include "fabric/ep_parts.h"
#include "fabric/past.h"

enum {
    MAX_TOKENS = 65535,
    MAX_SLOTS = 32767,
    MAX_TOPK = 256,
    MAX_HIDDEN = 1 << 20,
    MAX_EXTRA = 16,
    MAX_LAYER = 65535,
    FRAME_FLOOR_BYTES = 64 << 10,
    PAST_GROUP_BYTES = 8 << 20 /* rows in groups so large do not stay in the caches until they are read */
};

static void set_phase(struct ep_lane *l, enum ep_phase to) {
    static const char *const names[] = {"READY", "DISPATCHING", "DISPATCHED", "WORKING", "ANSWERING", "ANSWERED"};
    enum ep_phase from = l->phase;
    if (to != EP_READY && to != from && to != from + 1) BUG("ep: %s to %s", names[from], names[to]);
    if (to == from && to != EP_READY && to != EP_DISPATCHING && to != EP_ANSWERING) BUG("ep: %s twice", names[to]);
    l->phase = to;
}

static struct ep_lane *lane_of(struct ep *ep, int mb) {
    if (mb < 0 || mb >= EP_MICROBATCHES) BUG("ep: microbatch %d of %d", mb, EP_MICROBATCHES);
    return &ep->lane[mb];
}

/* ---- life ---- */

static struct ep_wire wire_of(const struct ep_limits *l) {
    return (struct ep_wire){.max_tokens = l->max_tokens,
                            .topk = l->topk,
                            .hidden = l->hidden,
                            .extra = l->extra,
                            .dispatch = l->dispatch,
                            .combine = l->combine,
                            .fused = l->fused};
}

size_t ep_frame_bytes(const struct ep_limits *l, int workers) {
    if (l->frame_bytes) return l->frame_bytes;
    struct ep_wire w = wire_of(l);
    int most = l->max_tokens * l->topk, share = (most + workers - 1) / workers, twice = 2 * share < most ? 2 * share : most,
        tokens = twice < l->max_tokens ? twice : l->max_tokens;
    size_t all = ep_frame_room(&w, l->max_tokens, l->fused ? l->max_tokens : most),
           usual = ep_frame_room(&w, tokens, l->fused ? tokens : twice);
    if (usual < FRAME_FLOOR_BYTES) usual = FRAME_FLOOR_BYTES;
    return usual < all ? usual : all;
}

size_t ep_bytes(const struct ep_limits *l, int workers) {
    size_t rows = (size_t)workers * (size_t)l->max_tokens * (size_t)l->topk;
    return rows * (2 * (size_t)l->hidden + (size_t)l->extra) * sizeof(float);
}

int ep_check_limits(const struct ep_limits *l, int workers, struct why *why) {
    if (workers < 1 || workers > FABRIC_MAX_RANKS)
        return fail(why, ERR_INVALID, "ep: %d workers, expected 1..%d", workers, FABRIC_MAX_RANKS);
    if (l->max_tokens < 1 || l->max_tokens > MAX_TOKENS)
        return fail(why, ERR_INVALID, "ep: %d tokens per worker and step, expected 1..%d", l->max_tokens, MAX_TOKENS);
    if (l->max_slots < 1 || l->max_slots > MAX_SLOTS)
        return fail(why, ERR_INVALID, "ep: %d slots per layer, expected 1..%d", l->max_slots, MAX_SLOTS);
    if (l->topk < 1 || l->topk > MAX_TOPK) return fail(why, ERR_INVALID, "ep: top-%d, expected 1..%d", l->topk, MAX_TOPK);
    if (l->hidden < 1 || l->hidden > MAX_HIDDEN)
        return fail(why, ERR_INVALID, "ep: rows of %d elements, expected 1..%d", l->hidden, MAX_HIDDEN);
    if (l->extra < 0 || l->extra > MAX_EXTRA)
        return fail(why, ERR_INVALID, "ep: %d floats beside each row, expected 0..%d", l->extra, MAX_EXTRA);
    if (l->dispatch >= EP_PLAIN_FORMATS || l->combine > EP_BF16)
        return fail(why, ERR_INVALID, "ep: rows cannot travel as %d and come back as %d", (int)l->dispatch, (int)l->combine);
    if (l->fused && (l->extra || l->combine != EP_F32))
        return fail(why, ERR_INVALID, "ep: sums come back as they are, with nothing beside them");
    for (int w = 0; w < workers; w++)
        if (l->host[w] >= FABRIC_MAX_RANKS) return fail(why, ERR_INVALID, "ep: worker %d is on host %d", w, l->host[w]);
    int64_t rows = (int64_t)workers * l->max_tokens * l->topk;
    if (rows > INT32_MAX / 2) return fail(why, ERR_TOO_LARGE, "ep: %lld rows in one layer of a step", (long long)rows);
    return 0;
}

static int check_fabric(const struct fabric *f, const struct ep_limits *l, struct why *why) {
    if (f && ep_frame_bytes(l, f->size) > f->frame_bytes)
        return fail(why, ERR_TOO_LARGE, "ep: frames of %zu bytes, the fabric carries %zu", ep_frame_bytes(l, f->size),
                    f->frame_bytes);
    return 0;
}

static void *piece(unsigned char *base, size_t *at, size_t bytes) {
    unsigned char *p = base ? base + *at : NULL;
    *at += (bytes + EP_ALIGN - 1) / EP_ALIGN * EP_ALIGN;
    return p;
}

/* One piece of address space for all rows. With base NULL only the sum is made. */
static size_t lay_out(struct ep *ep, unsigned char *base) {
    size_t at = 0, T = (size_t)ep->lim.max_tokens, rows = (size_t)ep->size * (size_t)ep_max_pairs(ep);
    for (int mb = 0; mb < EP_MICROBATCHES; mb++) {
        struct ep_lane *l = &ep->lane[mb];
        l->x = piece(base, &at, ep_floats(ep, rows) * sizeof *l->x);
        l->y = piece(base, &at, ep_floats(ep, rows) * sizeof *l->y);
        l->extra = piece(base, &at, rows * (size_t)ep->lim.extra * sizeof *l->extra);
        if (ep->lim.dispatch != EP_F32) l->packed = piece(base, &at, T * ep_row_bytes(ep->lim.dispatch, ep->lim.hidden));
        if (ep->lim.combine != EP_F32) {
            l->answers = piece(base, &at, ep_floats(ep, (size_t)ep_max_pairs(ep)) * sizeof *l->answers);
            l->scratch = piece(base, &at, ep_row_bytes(ep->lim.combine, ep->lim.hidden));
        }
        if (ep->lim.fused) {
            l->answers = piece(base, &at, ep_floats(ep, T) * sizeof *l->answers);
            l->sums = piece(base, &at, ep_floats(ep, T) * sizeof *l->sums);
            l->pair_token = piece(base, &at, rows * sizeof *l->pair_token);
            l->pair_weight = piece(base, &at, rows * sizeof *l->pair_weight);
        }
        size_t R = (size_t)ep->size, P = (size_t)ep_max_pairs(ep), weights = ep->lim.fused ? P : 0;
        l->far_token = piece(base, &at, R * T * sizeof *l->far_token);
        l->far_pair = piece(base, &at, R * P * sizeof *l->far_pair);
        l->far_target = piece(base, &at, R * P);
        l->far_weight = piece(base, &at, R * weights * sizeof *l->far_weight);
        l->picked_token = piece(base, &at, T * sizeof *l->picked_token);
        l->picked_pair = piece(base, &at, P * sizeof *l->picked_pair);
        l->picked_weight = piece(base, &at, weights * sizeof *l->picked_weight);
        for (int place = 0; place < EP_PLACES; place++)
            for (int w = 0; w < ep->size; w++)
                if (w != ep->rank) l->in[place][w].own = piece(base, &at, ep_message_bytes(ep, place));
    }
    return at;
}

static int alloc_bits(struct ep *ep) {
    size_t words[EP_PLACES], all = 0;
    for (int place = 0; place < EP_PLACES; place++)
        all += words[place] = ((size_t)ep_message_most_parts(ep, place) + 63) / 64;
    uint64_t *next = ep->bits = calloc(all * EP_MICROBATCHES * (size_t)ep->size, sizeof *ep->bits);
    if (!next) return ERR_NOMEM;
    for (int mb = 0; mb < EP_MICROBATCHES; mb++)
        for (int w = 0; w < ep->size; w++) {
            for (int place = 0; place < EP_PLACES; next += words[place++]) ep->lane[mb].in[place][w].seen = next;
            for (int kind = 0; kind < EP_KINDS; kind++) ep->lane[mb].last[kind][w].layer = -1;
            ep->lane[mb].passing[w].key.layer = -1;
        }
    return 0;
}

static int alloc_all(struct ep *ep) {
    const struct ep_limits *l = &ep->lim;
    int rc = alloc_bits(ep);
    ep->map_bytes = lay_out(ep, NULL);
    void *map = mmap(NULL, ep->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return ERR_NOMEM;
    ep->map = map;
    lay_out(ep, map);
    for (int mb = 0; mb < EP_MICROBATCHES && rc >= 0; mb++) {
        rc = ep_split_init(&ep->lane[mb].split, ep->size, l->max_tokens, l->topk, l->fused);
        if (rc >= 0) rc = ep_group_init(&ep->lane[mb].group, ep->size, l->max_slots, ep_max_pairs(ep));
    }
    return rc;
}

int ep_new(struct fabric *f, const struct ep_limits *l, struct ep **out, struct why *why) {
    int rc = ep_check_limits(l, f ? f->size : 1, why);
    if (rc >= 0) rc = check_fabric(f, l, why);
    if (rc < 0) return rc;
    struct ep *ep = calloc(1, sizeof *ep);
    if (!ep) return fail(why, ERR_NOMEM, "ep: out of memory");
    ep->fabric = f;
    ep->lim = *l;
    ep->rank = f ? f->rank : 0;
    ep->size = f ? f->size : 1;
    ep->members = ep->size == 64 ? UINT64_MAX : ep_bit(ep->size) - 1;
    for (int w = 0; w < ep->size; w++) ep->host_mask[l->host[w]] |= ep_bit(w);
    ep->wire = wire_of(l);
    if (ep_wire_init(&ep->wire, ep_frame_bytes(l, ep->size)) < 0) {
        ep_free(ep);
        return fail(why, ERR_TOO_LARGE, "ep: frames of %zu bytes are too small for rows of %d elements",
                    ep_frame_bytes(l, f ? f->size : 1), l->hidden);
    }
    if (alloc_all(ep) < 0) {
        ep_free(ep);
        return fail(why, ERR_NOMEM, "ep: no memory for rows of %d tokens from each of %d workers; lower the largest step",
                    l->max_tokens, f ? f->size : 1);
    }
    *out = ep;
    return 0;
}

/* used: they did their work, so more of their frames are duplicates. */
static void end_all(struct ep *ep, struct ep_lane *l, int place, bool used) {
    for (int w = 0; w < ep->size; w++) {
        if (!l->in[place][w].got) continue;
        if (used) l->last[place][w] = l->in[place][w].key;
        ep_message_end(ep, w, &l->in[place][w]);
    }
}

void ep_free(struct ep *ep) {
    if (!ep) return;
    for (int mb = 0; mb < EP_MICROBATCHES; mb++) {
        for (int place = 0; place < EP_PLACES; place++) end_all(ep, &ep->lane[mb], place, false);
        ep_split_clear(&ep->lane[mb].split);
        ep_group_clear(&ep->lane[mb].group);
    }
    if (ep->map) munmap(ep->map, ep->map_bytes);
    free(ep->bits);
    free(ep);
}

const struct ep_counters *ep_counters(const struct ep *ep) { return &ep->count; }

void ep_tell_epoch(struct ep *ep, uint32_t epoch) {
    unsigned told = atomic_load_explicit(&ep->told, memory_order_relaxed);
    while (told < epoch && !atomic_compare_exchange_weak_explicit(&ep->told, &told, epoch, memory_order_relaxed,
                                                                  memory_order_relaxed))
        continue;
}

void ep_set_two_hop(struct ep *ep, bool on) { ep->two_hop = on; }
void ep_set_members(struct ep *ep, uint64_t members) { ep->members = members | ep_bit(ep->rank); }

/* ---- between the phases ---- */

/* Answers that the caller has read by now. */
static void take_back(struct ep *ep) {
    if (!ep->lent) return;
    ep->lent = false;
    for (int mb = 0; mb < EP_MICROBATCHES; mb++)
        if (ep->lane[mb].phase == EP_READY) end_all(ep, &ep->lane[mb], EP_COMBINE, true);
}

/* Dispatches that the exchange has passed by end; one that was ahead and is so no more takes its place. */
static void catch_up(struct ep *ep, struct ep_lane *l) {
    end_all(ep, l, EP_DISPATCH, false);
    for (int w = 0; w < ep->size; w++) {
        struct ep_message *relay = &l->in[EP_RELAY][w];
        if (relay->got && ep_key_order(&relay->key, &l->key) < 0) ep_message_end(ep, w, relay);
    }
    for (int w = 0; w < ep->size; w++) {
        struct ep_message *ahead = &l->in[EP_AHEAD][w], swap = *ahead;
        int order = ahead->got ? ep_key_order(&ahead->key, &l->key) : 1;
        if (order < 0) ep_message_end(ep, w, ahead);
        if (order != 0) continue;
        *ahead = l->in[EP_DISPATCH][w];
        l->in[EP_DISPATCH][w] = swap;
    }
}

void ep_step_begin(struct ep *ep, uint32_t epoch, uint64_t step, const int32_t *tokens, int microbatches) {
    if (microbatches < 1 || microbatches > EP_MICROBATCHES) BUG("ep: a step of %d microbatches", microbatches);
    take_back(ep);
    ep->now_members = ep->members;
    ep->others = ep->members & ~ep_bit(ep->rank);
    ep->sources = 0;
    ep->complained = ep->bad = 0;
    for (int w = 0; w < ep->size; w++) {
        if (tokens[w] < 0 || tokens[w] > ep->lim.max_tokens)
            BUG("ep: the plan gives worker %d %d tokens, at most %d", w, tokens[w], ep->lim.max_tokens);
        ep->tokens[w] = tokens[w];
        if (tokens[w] && ep->others & ep_bit(w)) ep->sources |= ep_bit(w);
    }
    ep->brings = tokens[ep->rank] > 0;
    ep_relay_begin(ep);
    for (int mb = 0; mb < EP_MICROBATCHES; mb++) {
        struct ep_lane *l = &ep->lane[mb];
        set_phase(l, EP_READY);
        l->key = (struct ep_key){.epoch = epoch, .step = step, .layer = -1};
        end_all(ep, l, EP_COMBINE, false);
        l->since_us = 0;
        catch_up(ep, l);
    }
}

/* What a wait for everyone in `peers` has taken since it was counted last. */
static void count_wait(struct ep *ep, struct ep_lane *l, uint64_t peers, int64_t now_us) {
    while (peers) ep->count.wait_us[ep_next(&peers)] += (uint64_t)(now_us - l->counted_us);
    l->counted_us = now_us;
}

/* The peer's message has come. */
static void note_wait(struct ep *ep, int peer, uint64_t us) {
    int bucket = us ? 64 - __builtin_clzll(us) : 0;
    ep->count.link[peer].waits[bucket < EP_WAIT_BUCKETS ? bucket : EP_WAIT_BUCKETS - 1]++;
}

/* Who of `from` has not sent a good message of this phase yet; *came: who has since the last look. */
static uint64_t look_for(struct ep *ep, struct ep_lane *l, enum ep_kind kind, uint64_t from, uint64_t *came) {
    uint64_t missing = 0;
    *came = 0;
    while (from) {
        int w = ep_next(&from);
        bool before = l->in[kind][w].good;
        if (!ep_message_ready(ep, l, kind, w)) missing |= ep_bit(w);
        else if (!before) *came |= ep_bit(w);
    }
    return missing;
}

/* Waits until everyone in `from` has a good message of this phase here. A wait that goes on in a later call is one wait. */
static int await(struct ep *ep, struct ep_lane *l, enum ep_kind kind, uint64_t from, int64_t deadline_us, uint64_t *late) {
    for (;;) {
        ep_drain(ep);
        uint64_t came, missing = kind == EP_DISPATCH ? ep_relay_missing(ep, l) : 0;
        missing |= look_for(ep, l, kind, from, &came);
        int64_t now_us = l->since_us || missing ? clk_now_us() : 0;
        if (l->since_us) count_wait(ep, l, came | missing, now_us);
        while (came) note_wait(ep, ep_next(&came), l->since_us ? (uint64_t)(now_us - l->since_us) : 0);
        if (ep->bad) {
            *late = ep->bad;
            ep->bad = 0;
            return ERR_PROTOCOL;
        }
        if (!missing) break;
        if (!l->since_us) l->since_us = l->counted_us = now_us;
        int rc = ep_wait_news(ep, l, deadline_us);
        if (rc == ERR_DEADLINE) {
            count_wait(ep, l, missing, clk_now_us());
            *late = kind == EP_DISPATCH ? ep_relay_late(ep, missing) : missing;
            return ERR_LATE;
        }
        if (rc < 0) return rc;
    }
    l->since_us = 0;
    return 0;
}

/* ---- there ---- */

static void begin_dispatch(struct ep *ep, struct ep_lane *l, int layer, const struct ep_send *send, int slots) {
    if (layer < 0 || layer > MAX_LAYER || slots < 0 || slots > ep->lim.max_slots)
        BUG("ep: layer %d with %d slots, at most %d", layer, slots, ep->lim.max_slots);
    l->send = send ? *send : (struct ep_send){0};
    if (l->send.tokens < 0 || l->send.tokens > ep->tokens[ep->rank])
        BUG("ep: %d tokens to send, the plan grants %d", l->send.tokens, ep->tokens[ep->rank]);
    set_phase(l, EP_DISPATCHING);
    l->key.layer = layer;
    catch_up(ep, l);
    l->posted = 0;
    memset(l->part, 0, sizeof l->part);
    memset(l->pair, 0, sizeof l->pair);
    l->group.slots = slots;
    ep_split_make(&l->split, l->send.tokens, l->send.worker, l->send.slot, l->send.weights);
    ep_relay_split(ep, l);
    for (uint64_t far = ep->others & ~ep->host_mask[ep->lim.host[ep->rank]]; far;)
        ep->count.far.direct += (uint64_t)l->split.tokens[ep_next(&far)];
    size_t row = ep_row_bytes(ep->lim.dispatch, ep->lim.hidden);
    for (int t = 0; l->packed && t < l->send.tokens; t++)
        ep_pack(ep->lim.dispatch, l->packed + (size_t)t * row, l->send.x + ep_floats(ep, (size_t)t), ep->lim.hidden);
}

int ep_dispatch_post(struct ep *ep, int mb, int layer, const struct ep_send *send, int slots, int64_t deadline_us) {
    struct ep_lane *l = lane_of(ep, mb);
    take_back(ep);
    if (l->phase != EP_DISPATCHING) begin_dispatch(ep, l, layer, send, slots);
    else if (layer != l->key.layer) BUG("ep: dispatch of layer %d while layer %d is being posted", layer, l->key.layer);
    int rc = ep->brings && ep->others ? ep_post(ep, l, EP_DISPATCH, ep->direct | ep->relays, deadline_us) : 0;
    if (rc < 0) return rc;
    set_phase(l, EP_DISPATCHED);
    return 0;
}

/* Unpacks the rows of one source to where group wants them; token copies of one row fan out here. */
static void place_rows(struct ep *ep, struct ep_lane *l, int from, const struct ep_pair *pair, const unsigned char *rows,
                       const int32_t *token) {
    const int32_t *row = l->group.row + (size_t)from * (size_t)ep_max_pairs(ep);
    size_t size = ep_row_bytes(ep->lim.dispatch, ep->lim.hidden);
    bool past = ep->lim.dispatch == EP_F32 && size % PAST_LINE == 0 && (size_t)l->group.rows * size >= PAST_GROUP_BYTES;
    for (int i = 0; i < l->group.pairs[from]; i++) {
        size_t at = (size_t)(token ? token[pair[i].token] : pair[i].token);
        float *to = l->x + ep_floats(ep, (size_t)row[i]);
        if (past) past_copy(to, rows + at * size, size);
        else ep_unpack(ep->lim.dispatch, to, rows + at * size, ep->lim.hidden);
    }
    if (past) past_done();
}

/* What the sums are made of must outlive the frames. */
static void keep_weights(struct ep *ep, struct ep_lane *l, int from, const struct ep_pair *pair, const float *weight) {
    size_t at = (size_t)from * (size_t)ep_max_pairs(ep);
    for (int i = 0; i < l->group.pairs[from]; i++) l->pair_token[at + (size_t)i] = pair[i].token;
    memcpy(l->pair_weight + at, weight, (size_t)l->group.pairs[from] * sizeof *weight);
}

static void group_rows(struct ep *ep, struct ep_lane *l) {
    const struct ep_pair *pairs[FABRIC_MAX_RANKS] = {0};
    int n[FABRIC_MAX_RANKS] = {0};
    size_t me = (size_t)ep->rank, mine = me * (size_t)ep_max_pairs(ep);
    pairs[me] = l->split.pair + mine;
    n[me] = l->split.pairs[me];
    for (uint64_t from = ep->sources; from;) {
        int w = ep_next(&from);
        pairs[w] = l->in[EP_DISPATCH][w].pair;
        n[w] = (int)l->in[EP_DISPATCH][w].pairs;
        l->group_tokens[w] = (int)l->in[EP_DISPATCH][w].tokens;
    }
    ep_group_make(&l->group, l->group.slots, pairs, n);
    place_rows(ep, l, ep->rank, pairs[me], l->packed ? l->packed : (const unsigned char *)l->send.x,
               l->split.token + me * (size_t)ep->lim.max_tokens);
    if (ep->lim.fused) keep_weights(ep, l, ep->rank, pairs[me], l->split.weight + mine);
    for (uint64_t from = ep->sources; from;) {
        int w = ep_next(&from);
        place_rows(ep, l, w, pairs[w], l->in[EP_DISPATCH][w].rows, NULL);
        if (ep->lim.fused) keep_weights(ep, l, w, pairs[w], l->in[EP_DISPATCH][w].weight);
    }
}

int ep_dispatch_wait(struct ep *ep, int mb, struct ep_work *out, int64_t deadline_us, uint64_t *late) {
    struct ep_lane *l = lane_of(ep, mb);
    if (l->phase != EP_DISPATCHED) BUG("ep: dispatch_wait in phase %d", (int)l->phase);
    take_back(ep);
    int rc = ep->sources ? await(ep, l, EP_DISPATCH, ep->sources, deadline_us, late) : 0;
    if (rc < 0) return rc;
    group_rows(ep, l);
    end_all(ep, l, EP_DISPATCH, true);
    set_phase(l, EP_WORKING);
    *out = (struct ep_work){.rows = l->group.rows,
                            .x = l->x,
                            .y = l->y,
                            .extra = l->extra,
                            .first = l->group.first,
                            .slots = l->group.slots};
    return 0;
}

/* ---- and back ---- */

uint64_t ep_unposted(const struct ep *ep, int mb) {
    const struct ep_lane *l = &ep->lane[mb];
    uint64_t to = l->phase == EP_DISPATCHING ? ep->direct | ep->relays : l->phase == EP_ANSWERING ? ep->sources : 0;
    return to & ~l->posted;
}

int ep_combine_post(struct ep *ep, int mb, int64_t deadline_us) {
    struct ep_lane *l = lane_of(ep, mb);
    take_back(ep);
    if (l->phase != EP_ANSWERING) {
        set_phase(l, EP_ANSWERING);
        l->posted = 0;
        memset(l->part, 0, sizeof l->part);
        memset(l->pair, 0, sizeof l->pair);
    }
    int rc = ep->sources ? ep_post(ep, l, EP_COMBINE, ep->sources, deadline_us) : 0;
    if (rc < 0) return rc;
    set_phase(l, EP_ANSWERED);
    return 0;
}

/* The row that pair i of the lane's tokens got, as it travelled. */
static const unsigned char *row_of(const struct ep *ep, const struct ep_lane *l, int i) {
    const struct ep_message *m = &l->in[EP_COMBINE][l->send.worker[i]];
    return m->rows + (size_t)l->split.pair_of[i] * ep_row_bytes(ep->lim.combine, ep->lim.hidden);
}

static float *own_row(const struct ep *ep, const struct ep_lane *l, int i) {
    const int32_t *own = l->group.row + (size_t)ep->rank * (size_t)ep_max_pairs(ep);
    return l->y + ep_floats(ep, (size_t)own[l->split.pair_of[i]]);
}

static void lend_rows(struct ep *ep, struct ep_lane *l, const float **rows) {
    enum ep_format f = ep->lim.combine;
    for (int i = 0; i < l->send.tokens * ep->lim.topk; i++) {
        int w = l->send.worker[i];
        rows[i] = NULL;
        if (w < 0) continue;
        if (f == EP_F32) {
            rows[i] = w == ep->rank ? own_row(ep, l, i) : (const float *)row_of(ep, l, i);
            continue;
        }
        float *to = l->answers + ep_floats(ep, (size_t)i);
        if (w == ep->rank) ep_pack(f, l->scratch, own_row(ep, l, i), ep->lim.hidden); /* loses what the way loses */
        ep_unpack(f, to, w == ep->rank ? l->scratch : row_of(ep, l, i), ep->lim.hidden);
        rows[i] = to;
    }
}

static void add_own(struct ep *ep, struct ep_lane *l) {
    size_t me = (size_t)ep->rank, mine = me * (size_t)ep_max_pairs(ep);
    const int32_t *row = l->group.row + mine, *token = l->split.token + me * (size_t)ep->lim.max_tokens;
    for (int i = 0; i < l->group.pairs[me]; i++)
        ep_fixed_add_row(l->sums + ep_floats(ep, (size_t)token[l->pair_token[mine + (size_t)i]]),
                         l->y + ep_floats(ep, (size_t)row[i]), l->pair_weight[mine + (size_t)i], ep->lim.hidden);
}

static void add_sums(struct ep *ep, struct ep_lane *l, int from) {
    const struct ep_message *m = &l->in[EP_COMBINE][from];
    const int32_t *token = l->split.token + (size_t)from * (size_t)ep->lim.max_tokens;
    for (size_t i = 0; i < m->tokens; i++) {
        int64_t *sum = l->sums + ep_floats(ep, (size_t)token[i]);
        if (m->format == EP_SUM32) ep_fixed_add_narrow(sum, (const int32_t *)m->rows + ep_floats(ep, i), ep->lim.hidden);
        else ep_fixed_add(sum, (const int64_t *)m->rows + ep_floats(ep, i), ep->lim.hidden);
    }
}

static void lend_sums(struct ep *ep, struct ep_lane *l, const float **rows) {
    memset(l->sums, 0, ep_floats(ep, (size_t)l->send.tokens) * sizeof *l->sums);
    add_own(ep, l);
    for (uint64_t from = ep->brings ? ep->others : 0; from;) add_sums(ep, l, ep_next(&from));
    for (int t = 0; t < l->send.tokens; t++) {
        float *to = l->answers + ep_floats(ep, (size_t)t);
        ep_fixed_floats(to, l->sums + ep_floats(ep, (size_t)t), ep->lim.hidden);
        rows[t] = to;
    }
}

int ep_combine_wait(struct ep *ep, int mb, const float **rows, int64_t deadline_us, uint64_t *late) {
    struct ep_lane *l = lane_of(ep, mb);
    if (l->phase != EP_ANSWERED) BUG("ep: combine_wait in phase %d", (int)l->phase);
    take_back(ep);
    int rc = ep->brings && ep->others ? await(ep, l, EP_COMBINE, ep->others, deadline_us, late) : 0;
    if (rc < 0) return rc;
    if (ep->lim.fused) lend_sums(ep, l, rows);
    else lend_rows(ep, l, rows);
    set_phase(l, EP_READY);
    ep->lent = true;
    return 0;
}

void ep_extras(const struct ep *ep, int mb, float *out) {
    const struct ep_lane *l = &ep->lane[mb];
    const int32_t *own = l->group.row + (size_t)ep->rank * (size_t)ep_max_pairs(ep);
    size_t X = (size_t)ep->lim.extra;
    for (int i = 0; i < l->send.tokens * ep->lim.topk; i++, out += X) {
        int w = l->send.worker[i], pair = l->split.pair_of[i];
        if (w < 0) memset(out, 0, X * sizeof *out);
        else if (w == ep->rank) memcpy(out, l->extra + (size_t)own[pair] * X, X * sizeof *out);
        else memcpy(out, l->in[EP_COMBINE][w].extra + (size_t)pair * X, X * sizeof *out);
    }
}

void ep_progress(struct ep *ep) {
    if (!ep->fabric) return;
    int news = fabric_poll(ep->fabric);
    if (!ep->relayed) return;
    if (news > 0) ep_drain(ep); /* others may be waiting for what comes through here */
    else ep_relay_work(ep);
}

