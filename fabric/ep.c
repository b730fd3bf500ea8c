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

#include <string.h>

#include "base/clk.h"
#include "base/log.h"
#include "fabric/ep_fixed.h"
#include "fabric/ep_parts.h"
#include "fabric/past.h"

enum {
    MAX_LAYER = 65535,
    PAST_GROUP_BYTES = 6 << 20 /* rows in groups so large do not stay in the caches until they are read */
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

/* used: they did their work, so more of their frames are duplicates. */
static void end_all(struct ep *ep, struct ep_lane *l, int place, bool used) {
    for (int w = 0; w < ep->size; w++) {
        if (!l->in[place][w].got) continue;
        if (used) l->last[place][w] = l->in[place][w].key;
        ep_message_end(ep, w, &l->in[place][w]);
    }
}

const struct ep_counters *ep_counters(const struct ep *ep) { return &ep->count; }
void ep_counters_reset(struct ep *ep) { ep->count = (struct ep_counters){0}; }

void ep_tell_epoch(struct ep *ep, uint32_t epoch) {
    unsigned told = atomic_load_explicit(&ep->told, memory_order_relaxed);
    while (told < epoch && !atomic_compare_exchange_weak_explicit(&ep->told, &told, epoch, memory_order_relaxed,
                                                                  memory_order_relaxed))
        continue;
}

void ep_set_two_hop(struct ep *ep, bool on) { ep->two_hop = on; }
void ep_set_hosts(struct ep *ep, const uint8_t *host) {
    memset(ep->host_mask, 0, sizeof ep->host_mask);
    for (int w = 0; w < ep->size; w++) {
        ep->lim.host[w] = host[w];
        ep->host_mask[host[w]] |= ep_bit(w);
    }
}

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

static int sender_of(const struct ep *ep, enum ep_kind kind, int peer) {
    return kind == EP_DISPATCH ? ep->through[peer] : peer;
}

/* Behind a relay nobody can tell whether it or the home keeps them waiting: the time is counted for both, and what others
 * count for either says which. */
static uint64_t may_be_slow(const struct ep *ep, enum ep_kind kind, uint64_t peers) {
    return kind == EP_DISPATCH ? peers | ep_relay_late(ep, peers) : peers;
}

/* Waits until everyone in `from` has a good message of this phase here. A wait that goes on in a later call is one wait. */
static int await(struct ep *ep, struct ep_lane *l, enum ep_kind kind, uint64_t from, int64_t deadline_us, uint64_t *late) {
    for (;;) {
        ep_drain(ep);
        uint64_t came, missing = kind == EP_DISPATCH ? ep_relay_missing(ep, l) : 0;
        missing |= look_for(ep, l, kind, from, &came);
        int64_t now_us = l->since_us || missing ? clk_now_us() : 0;
        if (l->since_us) count_wait(ep, l, may_be_slow(ep, kind, came | missing), now_us);
        while (came) note_wait(ep, sender_of(ep, kind, ep_next(&came)), l->since_us ? (uint64_t)(now_us - l->since_us) : 0);
        if (ep->bad) {
            *late = ep->bad;
            ep->bad = 0;
            return ERR_PROTOCOL;
        }
        if (!missing) break;
        if (!l->since_us) l->since_us = l->counted_us = now_us;
        int rc = ep_wait_news(ep, l, deadline_us);
        if (rc == ERR_DEADLINE) {
            count_wait(ep, l, may_be_slow(ep, kind, missing), clk_now_us());
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

