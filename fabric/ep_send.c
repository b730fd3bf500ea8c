/* ep_send.c - packs the messages of a phase straight into the fabric's memory, part by part, and posts them.
 *
 * A post that waits for room goes on draining, so two workers that wait for each other's room both get it; and a part that does
 * not fit now is packed when it does, so nothing is queued here. */
#include <string.h>

#include "base/clk.h"
#include "fabric/ep_fixed.h"
#include "fabric/ep_parts.h"
#include "fabric/past.h"

enum { TOLD_SLICE_US = 20000 /* how long a later epoch may go unnoticed */ };

static bool is_told(const struct ep *ep, const struct ep_lane *l) {
    return atomic_load_explicit(&ep->told, memory_order_relaxed) > l->key.epoch;
}

int ep_wait_news(struct ep *ep, const struct ep_lane *l, int64_t deadline_us) {
    if (is_told(ep, l)) return ERR_EPOCH;
    const int64_t since_us = clk_now_us(), slice_us = since_us + TOLD_SLICE_US;
    const bool last = slice_us >= deadline_us;
    int rc = fabric_wait(ep->fabric, last ? deadline_us : slice_us);
    ep->count.idle_us += (uint64_t)(clk_now_us() - since_us);
    return rc == ERR_DEADLINE && !last ? 0 : rc;
}

static void count_sent(struct ep *ep, int to, size_t bytes, int part) {
    ep->count.link[to].frames_out++;
    ep->count.link[to].bytes_out += bytes;
    ep->count.link[to].frames_extra += part > 0;
}

static bool is_far(const struct ep *ep, int to) { return ep->lim.host[to] != ep->lim.host[ep->rank]; }

static void count_dispatch(struct ep *ep, int to, int rows) {
    size_t bytes = (size_t)rows * ep_row_bytes(ep->wire.dispatch, ep->wire.hidden);
    ep->count.dispatch_rows += (uint64_t)rows;
    ep->count.dispatch_bytes += bytes;
    if (!is_far(ep, to)) return;
    ep->count.far.rows += (uint64_t)rows;
    ep->count.far.dispatch_bytes += bytes;
}

static void count_combine(struct ep *ep, int to, int rows, size_t frame_bytes) {
    size_t bytes = frame_bytes - sizeof(struct ep_header);
    ep->count.combine_rows += (uint64_t)rows;
    ep->count.combine_bytes += bytes;
    if (!is_far(ep, to)) return;
    ep->count.far.answers += (uint64_t)rows;
    ep->count.far.combine_bytes += bytes;
}

static struct ep_part part_of(const struct ep *ep, const struct ep_lane *l, enum ep_kind kind, int to) {
    return (struct ep_part){.key = l->key,
                            .kind = kind,
                            .microbatch = (int)(l - ep->lane),
                            .source = ep->rank,
                            .home = kind == EP_COMBINE ? to : ep->rank,
                            .part = l->part[to]};
}

static void gather(unsigned char *to, const unsigned char *rows, const int32_t *token, int n, size_t row, bool past) {
    for (int i = 0; i < n; i++) {
        const unsigned char *from = rows + (size_t)token[i] * row;
        if (past) past_copy(to + (size_t)i * row, from, row);
        else memcpy(to + (size_t)i * row, from, row);
    }
    if (past) past_done();
}

/* Tokens of this part, and the pairs that name them: the list is in order of tokens. */
bool ep_send_list(struct ep *ep, struct ep_lane *l, enum ep_kind kind, int to, const struct ep_list *list, int part,
                  int *pair) {
    const struct ep_wire *w = &ep->wire;
    struct ep_part p = part_of(ep, l, kind, to);
    const int first = part * w->part_tokens;
    p.key = list->key;
    p.home = list->home;
    p.part = part;
    p.format = w->dispatch;
    p.all_tokens = list->tokens;
    p.all_pairs = list->pairs;
    p.tokens = ep_part_rows(list->tokens, w->part_tokens, part);
    p.first_pair = *pair;
    while (p.first_pair + p.pairs < p.all_pairs && list->pair[p.first_pair + p.pairs].token < first + p.tokens) p.pairs++;
    size_t row = ep_row_bytes(w->dispatch, w->hidden);
    void *room = fabric_reserve(ep->fabric, to, ep_dispatch_bytes(w, kind, p.tokens, p.pairs));
    if (!room) return false;
    size_t bytes = ep_frame_begin(room, w, &p);
    struct ep_pair *out = ep_frame_pairs(room);
    const struct ep_pair *in = list->pair + p.first_pair;
    for (int i = 0; i < p.pairs; i++) out[i] = (struct ep_pair){(uint16_t)(in[i].token - first), in[i].slot};
    if (w->fused) memcpy(ep_frame_weights(room), list->weight + p.first_pair, (size_t)p.pairs * sizeof(float));
    if (kind == EP_RELAY) memcpy(ep_frame_targets(w, room), list->target + p.first_pair, (size_t)p.pairs);
    unsigned char *rows = ep_frame_rows(w, room);
    gather(rows, list->rows, list->token + first, p.tokens, row, past_pays(ep->fabric, to, bytes, rows, row));
    fabric_commit(ep->fabric, to, bytes);
    *pair += p.pairs;
    count_dispatch(ep, to, p.tokens);
    count_sent(ep, to, bytes, part);
    return true;
}

static struct ep_list list_for(const struct ep *ep, const struct ep_lane *l, int to) {
    size_t T = (size_t)to * (size_t)ep->lim.max_tokens, P = (size_t)to * (size_t)ep_max_pairs(ep);
    struct ep_list list = {.key = l->key, .home = ep->rank, .rows = l->packed ? l->packed : (const unsigned char *)l->send.x};
    if (ep->relays & ep_bit(to)) {
        list.tokens = l->far_tokens[to];
        list.pairs = l->far_pairs[to];
        list.token = l->far_token + T;
        list.pair = l->far_pair + P;
        list.weight = ep->lim.fused ? l->far_weight + P : NULL;
        list.target = l->far_target + P;
        return list;
    }
    list.tokens = l->split.tokens[to];
    list.pairs = l->split.pairs[to];
    list.token = l->split.token + T;
    list.pair = l->split.pair + P;
    list.weight = ep->lim.fused ? l->split.weight + P : NULL;
    return list;
}

static bool send_dispatch(struct ep *ep, struct ep_lane *l, int to) {
    const struct ep_list list = list_for(ep, l, to);
    enum ep_kind kind = list.target ? EP_RELAY : EP_DISPATCH;
    return ep_send_list(ep, l, kind, to, &list, l->part[to], &l->pair[to]);
}

static size_t pack_rows(const struct ep *ep, const struct ep_lane *l, const struct ep_part *p, const int32_t *row, void *room) {
    const struct ep_wire *w = &ep->wire;
    size_t bytes = ep_frame_begin(room, w, p), size = ep_row_bytes(w->combine, w->hidden);
    unsigned char *rows = ep_frame_rows(w, room);
    if (w->combine == EP_F32 && past_pays(ep->fabric, p->home, bytes, rows, size)) {
        for (int i = 0; i < p->pairs; i++) past_copy(rows + (size_t)i * size, l->y + ep_floats(ep, (size_t)row[i]), size);
        past_done();
    } else {
        for (int i = 0; i < p->pairs; i++)
            ep_pack(w->combine, rows + (size_t)i * size, l->y + ep_floats(ep, (size_t)row[i]), w->hidden);
    }
    float *extras = ep_frame_extras(w, room);
    const int X = w->extra;
    for (int i = 0; i < p->pairs * X; i++) extras[i] = l->extra[row[i / X] * X + i % X];
    return bytes;
}

static bool send_rows(struct ep *ep, struct ep_lane *l, int to) {
    const struct ep_wire *w = &ep->wire;
    struct ep_part p = part_of(ep, l, EP_COMBINE, to);
    p.format = w->combine;
    p.all_pairs = l->group.pairs[to];
    p.pairs = ep_part_rows(p.all_pairs, w->part_answers, p.part);
    void *room = fabric_reserve(ep->fabric, to, ep_combine_bytes(w, p.pairs, w->combine));
    if (!room) return false;
    const int32_t *row = l->group.row + (size_t)to * (size_t)ep_max_pairs(ep) + (size_t)p.part * (size_t)w->part_answers;
    size_t bytes = pack_rows(ep, l, &p, row, room);
    fabric_commit(ep->fabric, to, bytes);
    count_combine(ep, to, p.pairs, bytes);
    count_sent(ep, to, bytes, p.part);
    return true;
}

/* One sum for each token of this part: its pairs are neighbours. Packed as int64, and made narrow when all of it fits. */
static bool send_sums(struct ep *ep, struct ep_lane *l, int to) {
    const struct ep_wire *w = &ep->wire;
    struct ep_part p = part_of(ep, l, EP_COMBINE, to);
    const size_t list = (size_t)to * (size_t)ep_max_pairs(ep);
    const int first = p.part * w->part_answers, n_pairs = l->group.pairs[to];
    p.format = EP_SUM64;
    p.all_tokens = l->group_tokens[to];
    p.tokens = ep_part_rows(p.all_tokens, w->part_answers, p.part);
    void *room = fabric_reserve(ep->fabric, to, ep_combine_bytes(w, p.tokens, EP_SUM64));
    if (!room) return false;
    (void)ep_frame_begin(room, w, &p);
    int64_t *sums = (int64_t *)ep_frame_rows(w, room);
    memset(sums, 0, ep_floats(ep, (size_t)p.tokens) * sizeof *sums);
    int i = l->pair[to];
    for (; i < n_pairs && l->pair_token[list + (size_t)i] < first + p.tokens; i++)
        ep_fixed_add_row(sums + ep_floats(ep, (size_t)(l->pair_token[list + (size_t)i] - first)),
                         l->y + ep_floats(ep, (size_t)l->group.row[list + (size_t)i]), l->pair_weight[list + (size_t)i],
                         w->hidden);
    l->pair[to] = i;
    if (ep_fixed_narrow(sums, ep_floats(ep, (size_t)p.tokens))) p.format = EP_SUM32;
    size_t bytes = ep_frame_begin(room, w, &p);
    fabric_commit(ep->fabric, to, bytes);
    count_combine(ep, to, p.tokens, bytes);
    count_sent(ep, to, bytes, p.part);
    return true;
}

/* false: no room now. */
static bool send_part(struct ep *ep, struct ep_lane *l, enum ep_kind kind, int to) {
    if (kind == EP_DISPATCH) return send_dispatch(ep, l, to);
    return ep->wire.fused ? send_sums(ep, l, to) : send_rows(ep, l, to);
}

static int parts_for(const struct ep *ep, const struct ep_lane *l, enum ep_kind kind, int to) {
    if (kind == EP_DISPATCH) return ep_parts(list_for(ep, l, to).tokens, ep->wire.part_tokens);
    return ep_parts(ep->wire.fused ? l->group_tokens[to] : l->group.pairs[to], ep->wire.part_answers);
}

/* A part to each in turn, every worker beginning behind itself, so that not all of them write to the same one at once. */
static void post_what_fits(struct ep *ep, struct ep_lane *l, enum ep_kind kind, uint64_t to) {
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 1; i < ep->size; i++) {
            int w = (ep->rank + i) % ep->size;
            if (!(to & ~l->posted & ep_bit(w)) || !send_part(ep, l, kind, w)) continue;
            moved = true;
            if (++l->part[w] >= parts_for(ep, l, kind, w)) l->posted |= ep_bit(w);
        }
    }
}

int ep_post(struct ep *ep, struct ep_lane *l, enum ep_kind kind, uint64_t to, int64_t deadline_us) {
    for (;;) {
        post_what_fits(ep, l, kind, to);
        if (!(to & ~l->posted)) return 0;
        const int64_t since_us = clk_now_us();
        ep_drain(ep);
        int rc = ep_wait_news(ep, l, deadline_us);
        const uint64_t waited_us = (uint64_t)(clk_now_us() - since_us);
        for (uint64_t full = to & ~l->posted; full;) ep->count.wait_us[ep_next(&full)] += waited_us;
        if (rc < 0) return rc == ERR_DEADLINE ? ERR_LATE : rc;
    }
}

int ep_flush(struct ep *ep, int64_t deadline_us) {
    while (ep->fabric) {
        if (is_told(ep, &ep->lane[0])) return ERR_EPOCH;
        int64_t slice_us = clk_now_us() + TOLD_SLICE_US;
        int rc = fabric_flush(ep->fabric, slice_us < deadline_us ? slice_us : deadline_us);
        if (rc != ERR_DEADLINE) return rc;
        if (slice_us >= deadline_us) return ERR_LATE;
    }
    return 0;
}
