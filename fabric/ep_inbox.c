/* ep_inbox.c - from frames to messages: every frame is filed by what it says it is, in whatever order frames come.
 *
 * Between two workers at most one message of each kind and microbatch is under way: a dispatch is followed by nothing until it
 * was answered, and it is used up by the worker that answers; an answer is sent only on a dispatch, and its home gives it back
 * before it dispatches again. So there is one place for each (microbatch, kind, peer), and one more for the dispatch of a
 * faster peer that has reached a later layer, or given up the step that we are in. When a later message comes for a place that
 * is taken, its sender has given up the older one, and so may we.
 *
 * Rooms. A message of one frame stays where it arrived ("held"), and so its stream moves only as far as the transport is deep.
 * Therefore what is held is copied out and given back before that becomes a reason to wait: a worker that drains never stands
 * in the way of one that posts, whatever either of them waits for. */
#include <string.h>

#include "base/log.h"
#include "fabric/ep_parts.h"
#include "fabric/probe.h"

enum { HELD_MOST = FABRIC_DEPTH / 2 };

size_t ep_message_bytes(const struct ep *ep, int place) {
    const struct ep_wire *w = &ep->wire;
    size_t T = (size_t)ep->lim.max_tokens, P = (size_t)ep_max_pairs(ep), bytes;
    if (place != EP_COMBINE) /* pair, weight and target of each; rows */
        bytes = P * (sizeof(struct ep_pair) + sizeof(float) + 1) + T * ep_row_bytes(w->dispatch, w->hidden);
    else if (w->fused) bytes = T * ep_row_bytes(EP_SUM64, w->hidden);
    else bytes = P * (ep_row_bytes(w->combine, w->hidden) + (size_t)w->extra * sizeof(float));
    return (bytes + EP_ALIGN - 1) / EP_ALIGN * EP_ALIGN;
}

int ep_message_most_parts(const struct ep *ep, int place) {
    if (place != EP_COMBINE) return ep_parts(ep->lim.max_tokens, ep->wire.part_tokens);
    return ep_parts(ep->wire.fused ? ep->lim.max_tokens : ep_max_pairs(ep), ep->wire.part_answers);
}

void ep_refuse(struct ep *ep, int peer, const struct ep_key *key, const struct why *why) {
    ep->count.link[peer].frames_bad++;
    ep->bad |= ep_bit(peer);
    if (!(ep->complained & ep_bit(peer)))
        log_error("ep: worker %d dropped a frame from worker %d (epoch %u, step %llu, layer %d): %s", ep->rank, peer,
                  key->epoch, (unsigned long long)key->step, key->layer, why->text);
    ep->complained |= ep_bit(peer);
}

/* ---- where content is ---- */

static void point_into_frame(const struct ep *ep, struct ep_message *m, const struct ep_header *h) {
    void *frame = (void *)h;
    m->frame = frame;
    m->pair = ep_frame_pairs(frame);
    m->weight = ep->wire.fused ? ep_frame_weights(frame) : NULL;
    m->target = h->kind == EP_RELAY ? ep_frame_targets(&ep->wire, frame) : NULL;
    m->rows = ep_frame_rows(&ep->wire, frame);
    m->extra = h->kind == EP_COMBINE ? ep_frame_extras(&ep->wire, frame) : NULL;
    m->format = (enum ep_format)h->format;
}

static void widen(int64_t *out, const int32_t *in, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = in[i];
}

struct ep_own ep_message_own(const struct ep *ep, struct ep_message *m) {
    size_t P = (size_t)ep_max_pairs(ep), T = (size_t)ep->lim.max_tokens;
    struct ep_own own = {.pair = (struct ep_pair *)m->own};
    own.weight = (float *)(own.pair + P);
    own.rows = (unsigned char *)(own.weight + P);
    own.target = own.rows + T * ep_row_bytes(ep->wire.dispatch, ep->wire.hidden);
    m->pair = own.pair;
    m->weight = own.weight;
    m->rows = own.rows;
    m->target = own.target;
    m->format = ep->wire.dispatch;
    return own;
}

static void copy_dispatch(const struct ep *ep, struct ep_message *m, const struct ep_header *h) {
    const struct ep_own own = ep_message_own(ep, m);
    size_t row = ep_row_bytes(ep->wire.dispatch, ep->wire.hidden);
    int first = h->part * ep->wire.part_tokens;
    const struct ep_pair *from = ep_frame_pairs((void *)h);
    for (uint32_t i = 0; i < h->pairs; i++)
        own.pair[h->first_pair + i] = (struct ep_pair){(uint16_t)(from[i].token + first), from[i].slot};
    if (ep->wire.fused) memcpy(own.weight + h->first_pair, ep_frame_weights((void *)h), h->pairs * sizeof *own.weight);
    if (h->kind == EP_RELAY) memcpy(own.target + h->first_pair, ep_frame_targets(&ep->wire, (void *)h), h->pairs);
    memcpy(own.rows + (size_t)first * row, ep_frame_rows(&ep->wire, (void *)h), h->tokens * row);
}

static void copy_combine(const struct ep *ep, struct ep_message *m, const struct ep_header *h) {
    const struct ep_wire *w = &ep->wire;
    size_t n = (size_t)ep_frame_row_count(h), first = (size_t)h->part * (size_t)w->part_answers, H = (size_t)w->hidden;
    const void *rows = ep_frame_rows(w, (void *)h);
    m->rows = m->own;
    m->format = w->fused ? EP_SUM64 : w->combine;
    if (h->format == EP_SUM32) {
        widen((int64_t *)m->own + first * H, rows, n * H);
        return;
    }
    size_t row = ep_row_bytes(m->format, w->hidden), X = (size_t)w->extra;
    memcpy(m->own + first * row, rows, n * row);
    if (w->fused) return;
    float *extra = (float *)(m->own + (size_t)ep_max_pairs(ep) * row);
    memcpy(extra + first * X, ep_frame_extras(w, (void *)h), n * X * sizeof *extra);
    m->extra = extra;
}

static void copy_part(const struct ep *ep, struct ep_message *m, const struct ep_header *h) {
    m->frame = NULL;
    if (h->kind != EP_COMBINE) copy_dispatch(ep, m, h);
    else copy_combine(ep, m, h);
}

/* ---- rooms ---- */

static void let_go(struct ep *ep, int peer, struct ep_message *m) {
    struct ep_stream *s = &ep->stream[peer];
    fabric_give(ep->fabric, peer, m->frame);
    m->frame = NULL;
    if (--s->held == 0) s->passed = 0;
}

/* Never called while rows are lent: see may_take. */
static void copy_out_held(struct ep *ep, int peer) {
    for (int mb = 0; mb < EP_MICROBATCHES; mb++) {
        for (int place = 0; place < EP_PLACES; place++) {
            struct ep_message *m = &ep->lane[mb].in[place][peer];
            const struct ep_header *h = m->frame;
            if (!h) continue;
            copy_part(ep, m, h);
            m->frame = h;
            let_go(ep, peer, m);
        }
    }
}

/* Back with a frame that no message holds. */
static void give(struct ep *ep, int peer, const void *frame) {
    struct ep_stream *s = &ep->stream[peer];
    fabric_give(ep->fabric, peer, frame);
    if (s->held && s->held + ++s->passed >= FABRIC_DEPTH - 1) copy_out_held(ep, peer);
}

/* ---- filing ---- */

void ep_message_end(struct ep *ep, int peer, struct ep_message *m) {
    if (m->frame) let_go(ep, peer, m);
    m->got = 0;
    m->good = false;
}

static bool seen(const struct ep_message *m, int part) { return m->seen[part / 64] >> part % 64 & 1; }

enum fate { WANTED, STALE, DUPLICATE, UNASKED };

/* Whether its sender is a member of a later epoch is not known yet, but it has begun it: only members do. */
static bool may_speak(const struct ep *ep, const struct ep_lane *l, const struct ep_header *h) {
    return h->epoch > l->key.epoch || ep->members & ep_bit(h->source);
}

/* place: of the frame in the exchange, against what the lane is at. m: where it would go. */
static enum fate fate_of(const struct ep *ep, const struct ep_lane *l, const struct ep_message *m, const struct ep_header *h,
                         int place) {
    struct ep_key key = ep_frame_key(h);
    const struct ep_key *last = &l->last[h->kind][h->kind == EP_COMBINE ? h->source : h->home];
    if (key.epoch == last->epoch && ep_key_order(&key, last) <= 0) return DUPLICATE;
    if (place < 0 || !may_speak(ep, l, h)) return STALE;
    int order = m->got ? ep_key_order(&key, &m->key) : 1;
    if (order == 0 && h->part < m->parts && seen(m, h->part)) return DUPLICATE; /* also of answers that are lent */
    if (h->kind == EP_COMBINE && (place > 0 || !ep->brings || l->phase == EP_READY)) return UNASKED;
    if (h->kind != EP_COMBINE && place == 0 && l->phase != EP_DISPATCHING && l->phase != EP_DISPATCHED) return STALE;
    return order < 0 ? STALE : WANTED;
}

static void begin_message(struct ep_message *m, const struct ep_header *h) {
    m->key = ep_frame_key(h);
    m->parts = h->parts;
    m->tokens = h->all_tokens;
    m->pairs = h->all_pairs;
    m->pairs_got = 0;
    memset(m->seen, 0, ((size_t)h->parts + 63) / 64 * sizeof *m->seen);
}

/* from: whose message it is; what others passed on is never held. */
static int add_part(struct ep *ep, int peer, int from, struct ep_message *m, const struct ep_header *h, struct why *why) {
    int rc = ep_frame_check(h, &ep->wire, why);
    if (rc < 0) return rc;
    struct ep_key key = ep_frame_key(h);
    if (m->got && ep_key_order(&key, &m->key) > 0) ep_message_end(ep, from, m);
    if (!m->got) begin_message(m, h);
    if (h->parts != m->parts || h->all_tokens != m->tokens || h->all_pairs != m->pairs)
        return fail(why, ERR_PROTOCOL, "parts of different messages");
    m->seen[h->part / 64] |= UINT64_C(1) << h->part % 64;
    m->got++;
    m->pairs_got += h->pairs;
    if (m->parts == 1 && from == peer && ep->stream[peer].held < HELD_MOST) {
        point_into_frame(ep, m, h);
        ep->stream[peer].held++;
        return 1;
    }
    copy_part(ep, m, h);
    return 0;
}

/* Whose message a frame is of: an answer its sender's, a dispatch its home's. ERR_PROTOCOL when the sender has no business with
 * it: only a neighbour passes on what came from another host. */
static int whose(const struct ep *ep, const struct ep_header *h, struct why *why) {
    const uint8_t *host = ep->lim.host, here = host[ep->rank];
    bool own = h->home == h->source, far = h->home < ep->size && host[h->home] != here;
    if (h->kind == EP_COMBINE && h->home == ep->rank) return h->source;
    if (h->kind == EP_DISPATCH && (own || (far && host[h->source] == here))) return h->home;
    if (h->kind == EP_RELAY && own && far) return h->home;
    return fail(why, ERR_PROTOCOL, "tokens of worker %d", h->home);
}

static void file(struct ep *ep, int peer, const void *frame, size_t bytes) {
    const struct ep_header *h;
    struct why why;
    if (probe_is_frame(frame, bytes)) return give(ep, peer, frame); /* of a measurement that this worker came too late for */
    ep->count.link[peer].frames_in++;
    ep->count.link[peer].bytes_in += bytes;
    int rc = ep_frame_open(frame, bytes, peer, &h, &why);
    int from = rc < 0 ? rc : whose(ep, h, &why);
    if (from < 0) {
        ep_refuse(ep, peer, &ep->lane[0].key, &why);
        give(ep, peer, frame);
        return;
    }
    struct ep_key key = ep_frame_key(h);
    struct ep_lane *l = &ep->lane[h->microbatch];
    int place = ep_key_order(&key, &l->key);
    struct ep_message *m = &l->in[h->kind == EP_DISPATCH && place > 0 ? EP_AHEAD : (int)h->kind][from];
    switch (fate_of(ep, l, m, h, place)) {
    case STALE: ep->count.link[peer].frames_stale++; break;
    case DUPLICATE: ep->count.link[peer].frames_duplicate++; break;
    case UNASKED:
        fail(&why, ERR_PROTOCOL, "an answer, but nothing was asked");
        ep_refuse(ep, peer, &key, &why);
        break;
    case WANTED:
        rc = add_part(ep, peer, from, m, h, &why);
        if (rc < 0) ep_refuse(ep, peer, &key, &why);
        if (rc > 0) return; /* held */
        break;
    }
    give(ep, peer, frame);
}

/* Rows that the caller is reading stay where they are: no more is taken of their stream than needs no room made. */
static bool may_take(const struct ep *ep, int peer) {
    const struct ep_stream *s = &ep->stream[peer];
    return !ep->lent || !s->held || s->held + s->passed + 1 < FABRIC_DEPTH - 1;
}

void ep_drain(struct ep *ep) {
    size_t bytes;
    for (int peer = 0; peer < ep->size; peer++) {
        if (peer == ep->rank) continue;
        for (const void *frame; may_take(ep, peer) && (frame = fabric_take(ep->fabric, peer, &bytes));)
            file(ep, peer, frame, bytes);
    }
    ep_relay_work(ep);
}

/* ---- judging ---- */

static int judge(const struct ep *ep, const struct ep_lane *l, enum ep_kind kind, int peer, const struct ep_message *m,
                 struct why *why) {
    if (m->pairs_got != m->pairs)
        return fail(why, ERR_PROTOCOL, "%u pairs in %d parts, expected %u", m->pairs_got, m->parts, m->pairs);
    if (kind == EP_COMBINE) {
        uint32_t rows = ep->wire.fused ? m->tokens : m->pairs;
        int asked = ep->wire.fused ? l->split.tokens[peer] : l->split.pairs[peer];
        return rows == (uint32_t)asked ? 0 : fail(why, ERR_PROTOCOL, "%u rows, %d were asked for", rows, asked);
    }
    const struct ep_bounds b = {.tokens = ep->tokens[peer],
                                .topk = ep->lim.topk,
                                .slots = kind == EP_RELAY ? ep->lim.max_slots : l->group.slots};
    for (uint32_t i = 0; kind == EP_RELAY && i < m->pairs; i++)
        if (m->target[i] != ep->rank && (m->target[i] >= ep->size || !(ep->direct & ep_bit(m->target[i]))))
            return fail(why, ERR_PROTOCOL, "pair %u is for worker %d, which is not on this host", i, m->target[i]);
    return ep_check_pairs(m->pair, (int)m->pairs, (int)m->tokens, &b, why);
}

bool ep_message_sound(struct ep *ep, struct ep_lane *l, enum ep_kind kind, int peer) {
    struct ep_message *m = &l->in[kind][peer];
    struct why why;
    if (!m->got || m->got < m->parts) return false;
    if (m->good) return true;
    if (judge(ep, l, kind, peer, m, &why) < 0) {
        ep_refuse(ep, peer, &m->key, &why);
        ep_message_end(ep, peer, m);
        return false;
    }
    return m->good = true;
}

bool ep_message_ready(struct ep *ep, struct ep_lane *l, enum ep_kind kind, int peer) {
    return ep_key_order(&l->in[kind][peer].key, &l->key) == 0 && ep_message_sound(ep, l, kind, peer);
}
