/* ep_memory.c - how large an exchange may be, and all the memory that it will ever have. */
#include <stdlib.h>
#include <sys/mman.h>

#include "fabric/ep_parts.h"

enum {
    MAX_TOKENS = 65535,
    MAX_SLOTS = 32767,
    MAX_TOPK = 256,
    MAX_HIDDEN = 1 << 20,
    MAX_EXTRA = 16,
    FRAME_FLOOR_BYTES = 64 << 10
};

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
    ep_set_hosts(ep, l->host);
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

void ep_free(struct ep *ep) {
    if (!ep) return;
    for (int mb = 0; mb < EP_MICROBATCHES; mb++) {
        for (int place = 0; place < EP_PLACES; place++)
            for (int w = 0; w < ep->size; w++)
                if (ep->lane[mb].in[place][w].got) ep_message_end(ep, w, &ep->lane[mb].in[place][w]);
        ep_split_clear(&ep->lane[mb].split);
        ep_group_clear(&ep->lane[mb].group);
    }
    if (ep->map) munmap(ep->map, ep->map_bytes);
    free(ep->bits);
    free(ep);
}
