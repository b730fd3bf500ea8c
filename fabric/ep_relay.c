/* ep_relay.c - two-hop dispatch: a token crosses to another host once, and there to each worker that wants it.
 *
 * For every other host a home has one relay: the member there of the same local rank, or of that modulo how many there are. It
 * follows from the hosts and the members alone, so all workers of an epoch name the same one. The relay gets all of a token's
 * pairs for its host, and passes them on as the dispatch that the home would have sent: same rows in the same order, so nothing
 * behind it knows the difference, and answers go straight home. It does so whenever it looks at what has come, also while it
 * computes (ep_progress), and for layers of the step that it has not reached itself; and it does not leave a layer's
 * dispatch_wait before all of that layer is passed on. */
#include <string.h>

#include "base/clk.h"
#include "fabric/ep_parts.h"

/* ---- who ---- */

static int local_rank(const struct ep *ep, int worker) {
    uint64_t before = ep->now_members & (ep_bit(worker) - 1) & ep->host_mask[ep->lim.host[worker]];
    return __builtin_popcountll(before);
}

/* The member of host `host` that relays for `home`; -1: the host has no members. */
static int relay_at(const struct ep *ep, int home, int host) {
    uint64_t there = ep->now_members & ep->host_mask[host];
    if (!there) return -1;
    for (int n = local_rank(ep, home) % __builtin_popcountll(there); n; n--) there &= there - 1;
    return __builtin_ctzll(there);
}

void ep_relay_begin(struct ep *ep) {
    uint64_t near = ep->host_mask[ep->lim.host[ep->rank]];
    ep->direct = ep->others;
    ep->relays = ep->relayed = 0;
    for (int h = 0; h < FABRIC_MAX_RANKS; h++) ep->relay_to[h] = -1;
    for (int w = 0; w < ep->size; w++) ep->through[w] = w;
    if (!ep->two_hop || !(ep->others & ~near)) return;
    ep->direct = ep->others & near;
    for (int w = 0; w < ep->size; w++) {
        int host = ep->lim.host[w];
        if (!(ep->others & ~near & ep_bit(w))) continue;
        if (ep->relay_to[host] < 0) ep->relay_to[host] = relay_at(ep, ep->rank, host);
        ep->relays |= ep_bit(ep->relay_to[host]);
        int relay = relay_at(ep, w, ep->lim.host[ep->rank]);
        if (relay != ep->rank) ep->through[w] = relay;
        else if (ep->sources & ep_bit(w)) ep->relayed |= ep_bit(w);
    }
}

/* ---- at home ---- */

void ep_relay_split(struct ep *ep, struct ep_lane *l) {
    memset(l->far_tokens, 0, sizeof l->far_tokens);
    memset(l->far_pairs, 0, sizeof l->far_pairs);
    const size_t T = (size_t)ep->lim.max_tokens, P = (size_t)ep_max_pairs(ep);
    const int k = ep->lim.topk;
    for (int i = 0; ep->relays && i < l->send.tokens * k; i++) {
        int w = l->send.worker[i], to = w < 0 ? -1 : ep->relay_to[ep->lim.host[w]];
        if (to < 0) continue;
        int32_t *copies = l->far_token + (size_t)to * T;
        if (!l->far_tokens[to] || copies[l->far_tokens[to] - 1] != i / k) copies[l->far_tokens[to]++] = i / k;
        size_t at = (size_t)to * P + (size_t)l->far_pairs[to]++;
        l->far_pair[at] = (struct ep_pair){(uint16_t)(l->far_tokens[to] - 1), (uint16_t)l->send.slot[i]};
        l->far_target[at] = (uint8_t)w;
        if (ep->lim.fused) l->far_weight[at] = l->send.weights[i];
    }
}

/* ---- at the relay ---- */

/* What `to` would have got from the home: picked out of the relay message into scratch lists. */
static void pick(const struct ep *ep, struct ep_lane *l, const struct ep_message *m, int to) {
    l->picked_tokens = l->picked_pairs = 0;
    for (uint32_t i = 0; i < m->pairs; i++) {
        if (m->target[i] != to) continue;
        if (!l->picked_tokens || l->picked_token[l->picked_tokens - 1] != m->pair[i].token)
            l->picked_token[l->picked_tokens++] = m->pair[i].token;
        if (ep->lim.fused) l->picked_weight[l->picked_pairs] = m->weight[i];
        l->picked_pair[l->picked_pairs++] = (struct ep_pair){(uint16_t)(l->picked_tokens - 1), m->pair[i].slot};
    }
}

/* This worker's own share becomes a message as if it had come from the home. */
static void keep_own(struct ep *ep, struct ep_lane *l, int home, const struct ep_message *m) {
    struct ep_message *own = &l->in[ep_key_order(&m->key, &l->key) > 0 ? EP_AHEAD : EP_DISPATCH][home];
    size_t row = ep_row_bytes(ep->lim.dispatch, ep->lim.hidden);
    pick(ep, l, m, ep->rank);
    if (own->got) ep_message_end(ep, home, own);
    const struct ep_own to = ep_message_own(ep, own);
    memcpy(to.pair, l->picked_pair, (size_t)l->picked_pairs * sizeof *to.pair);
    if (ep->lim.fused) memcpy(to.weight, l->picked_weight, (size_t)l->picked_pairs * sizeof *to.weight);
    for (int i = 0; i < l->picked_tokens; i++)
        memcpy(to.rows + (size_t)i * row, m->rows + (size_t)l->picked_token[i] * row, row);
    own->key = m->key;
    own->got = own->parts = 1;
    own->tokens = (uint32_t)l->picked_tokens;
    own->pairs = own->pairs_got = (uint32_t)l->picked_pairs;
}

/* A home that has reached a later step or layer, while this is not passed on, has given it up. Its later dispatch stands where
 * this worker's own share would go. */
static bool is_given_up(const struct ep_lane *l, int home, const struct ep_message *m) {
    const struct ep_message *ahead = &l->in[EP_AHEAD][home];
    return ahead->got && ep_key_order(&ahead->key, &m->key) > 0;
}

/* Sends what still fits of home's rows to `to`. true: all of it is sent. */
static bool pass_on(struct ep *ep, struct ep_lane *l, int home, const struct ep_message *m, int to) {
    struct ep_passing *p = &l->passing[home];
    pick(ep, l, m, to);
    const struct ep_list list = {.key = m->key,
                                 .home = home,
                                 .tokens = l->picked_tokens,
                                 .pairs = l->picked_pairs,
                                 .token = l->picked_token,
                                 .pair = l->picked_pair,
                                 .weight = l->picked_weight,
                                 .rows = m->rows};
    for (int parts = ep_parts(list.tokens, ep->wire.part_tokens); p->part < parts; p->part++)
        if (!ep_send_list(ep, l, EP_DISPATCH, to, &list, p->part, &p->pair)) return false;
    p->part = p->pair = 0;
    return true;
}

static void relay(struct ep *ep, struct ep_lane *l, int home) {
    struct ep_message *m = &l->in[EP_RELAY][home];
    struct ep_passing *p = &l->passing[home];
    if (is_given_up(l, home, m)) {
        ep_message_end(ep, home, m);
        return;
    }
    if (ep_key_order(&p->key, &m->key) != 0) {
        keep_own(ep, l, home, m);
        *p = (struct ep_passing){.key = m->key, .left = ep->direct};
    }
    while (p->left) {
        int to = __builtin_ctzll(p->left);
        if (!pass_on(ep, l, home, m, to)) return;
        p->left &= p->left - 1;
    }
    l->last[EP_RELAY][home] = m->key;
    ep_message_end(ep, home, m);
}

/* Of the step that the lane is in, whose plan says what may come; in a layer that it has not left. */
static bool is_due(const struct ep_lane *l, const struct ep_message *m) {
    return m->got && m->key.epoch == l->key.epoch && m->key.step == l->key.step && m->key.layer >= l->key.layer;
}

void ep_relay_work(struct ep *ep) {
    for (int mb = 0; ep->relayed && mb < EP_MICROBATCHES; mb++) {
        struct ep_lane *l = &ep->lane[mb];
        for (uint64_t look = ep->relayed; look;) {
            int home = ep_next(&look);
            if (is_due(l, &l->in[EP_RELAY][home]) && ep_message_sound(ep, l, EP_RELAY, home)) relay(ep, l, home);
        }
    }
}

uint64_t ep_relay_missing(const struct ep *ep, const struct ep_lane *l) {
    uint64_t missing = 0;
    for (uint64_t look = ep->relayed; look;) {
        int home = ep_next(&look);
        const struct ep_passing *p = &l->passing[home];
        missing |= ep_key_order(&p->key, &l->key) == 0 ? p->left : ep_bit(home);
    }
    return missing;
}

uint64_t ep_relay_late(const struct ep *ep, uint64_t homes) {
    uint64_t late = 0;
    while (homes) late |= ep_bit(ep->through[ep_next(&homes)]);
    return late;
}
