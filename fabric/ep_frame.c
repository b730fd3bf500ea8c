/* ep_frame.c - sizes, order and checks of exchange frames.
 *
 * A peer is trusted to be a Cadre worker, not to be right: it may run another version, follow another plan, or have a bug. A
 * frame is therefore judged in two steps: first the envelope, which says where in the exchange it belongs (older ones are
 * dropped without a look inside); then, when its turn has come, every count and index against what this worker expects. */
#include "fabric/ep_frame.h"

#include <string.h>

static size_t lines(size_t bytes) { return (bytes + EP_ALIGN - 1) / EP_ALIGN * EP_ALIGN; }
static size_t rows_bytes(size_t rows, size_t hidden) { return rows * hidden * sizeof(float); }
static size_t dispatch_rows_at(size_t pairs) { return sizeof(struct ep_header) + lines(pairs * sizeof(struct ep_pair)); }

size_t ep_dispatch_bytes(int tokens, int pairs, int hidden) {
    return dispatch_rows_at((size_t)pairs) + rows_bytes((size_t)tokens, (size_t)hidden);
}

size_t ep_combine_bytes(int pairs, int hidden, int extra) {
    return sizeof(struct ep_header) + rows_bytes((size_t)pairs, (size_t)hidden + (size_t)extra);
}

float *ep_frame_rows(void *frame) {
    const struct ep_header *h = frame;
    size_t at = h->kind == EP_DISPATCH ? dispatch_rows_at(h->pairs) : sizeof *h;
    return (float *)((unsigned char *)frame + at);
}

float *ep_frame_extras(void *frame) {
    const struct ep_header *h = frame;
    return ep_frame_rows(frame) + (size_t)h->pairs * h->hidden;
}

struct ep_key ep_frame_key(const struct ep_header *h) {
    return (struct ep_key){.epoch = h->epoch, .step = h->step, .layer = h->layer, .kind = h->kind};
}

int ep_key_order(const struct ep_key *a, const struct ep_key *b) {
    if (a->epoch != b->epoch) return a->epoch < b->epoch ? -1 : 1;
    if (a->step != b->step) return a->step < b->step ? -1 : 1;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    return (int)a->kind - (int)b->kind;
}

void ep_frame_begin(void *room, const struct ep_key *key, int source, const struct ep_counts *n) {
    size_t bytes = key->kind == EP_DISPATCH ? ep_dispatch_bytes(n->tokens, n->pairs, n->hidden)
                                            : ep_combine_bytes(n->pairs, n->hidden, n->extra);
    *(struct ep_header *)room = (struct ep_header){.magic = EP_MAGIC,
                                                   .version = EP_VERSION,
                                                   .kind = (uint8_t)key->kind,
                                                   .format = EP_F32,
                                                   .step = key->step,
                                                   .epoch = key->epoch,
                                                   .layer = (uint16_t)key->layer,
                                                   .source = (uint16_t)source,
                                                   .tokens = (uint32_t)n->tokens,
                                                   .pairs = (uint32_t)n->pairs,
                                                   .hidden = (uint32_t)n->hidden,
                                                   .extra = (uint32_t)n->extra,
                                                   .bytes = bytes};
    if (key->kind == EP_DISPATCH) { /* the pad: no byte of an earlier frame leaves the process */
        size_t end = sizeof(struct ep_header) + (size_t)n->pairs * sizeof(struct ep_pair);
        memset((unsigned char *)room + end, 0, dispatch_rows_at((size_t)n->pairs) - end);
    }
}

int ep_frame_open(const void *frame, size_t bytes, int source, const struct ep_header **out, struct why *why) {
    const struct ep_header *h = frame;
    static const uint8_t zero[sizeof h->zero];
    if (bytes < sizeof *h) return fail(why, ERR_PROTOCOL, "%zu bytes, a header has %zu", bytes, sizeof *h);
    if (h->magic != EP_MAGIC) return fail(why, ERR_PROTOCOL, "magic %08x, expected %08x", h->magic, EP_MAGIC);
    if (h->version != EP_VERSION)
        return fail(why, ERR_PROTOCOL, "frame version %d, expected %d: run the same cadre-worker everywhere", h->version,
                    EP_VERSION);
    if (h->bytes != bytes) return fail(why, ERR_PROTOCOL, "says %llu bytes, has %zu", (unsigned long long)h->bytes, bytes);
    if (h->source != source) return fail(why, ERR_PROTOCOL, "says it is from worker %d", h->source);
    if (h->kind != EP_DISPATCH && h->kind != EP_COMBINE) return fail(why, ERR_PROTOCOL, "unknown kind %d", h->kind);
    if (h->format != EP_F32) return fail(why, ERR_PROTOCOL, "unknown payload format %d", h->format);
    if (h->microbatch || h->flags || memcmp(h->zero, zero, sizeof zero) != 0)
        return fail(why, ERR_PROTOCOL, "reserved fields are set");
    *out = h;
    return 0;
}

int ep_frame_check_dispatch(const struct ep_header *h, const struct ep_bounds *b, struct why *why) {
    if (h->hidden != (uint32_t)b->hidden)
        return fail(why, ERR_PROTOCOL, "rows of %u elements, expected %d", h->hidden, b->hidden);
    if (h->extra) return fail(why, ERR_PROTOCOL, "%u floats beside the rows of a dispatch, expected none", h->extra);
    if (h->tokens > (uint32_t)b->tokens) return fail(why, ERR_PROTOCOL, "%u tokens, the plan allows %d", h->tokens, b->tokens);
    if (h->pairs > h->tokens * (uint32_t)b->topk)
        return fail(why, ERR_PROTOCOL, "%u pairs for %u tokens, at most %d each", h->pairs, h->tokens, b->topk);
    size_t want = ep_dispatch_bytes((int)h->tokens, (int)h->pairs, b->hidden);
    if (h->bytes != want) return fail(why, ERR_PROTOCOL, "%llu bytes, its counts need %zu", (unsigned long long)h->bytes, want);

    /* Each row has at least one pair and at most topk, in order: so rows are neither missed nor sent for nothing. */
    const struct ep_pair *p = ep_frame_pairs((void *)h);
    int token = -1, run = 0;
    for (uint32_t i = 0; i < h->pairs; i++) {
        if (p[i].slot >= b->slots)
            return fail(why, ERR_PROTOCOL, "pair %u is for slot %d, there are %d", i, p[i].slot, b->slots);
        if (p[i].token == token + 1) token++, run = 1;
        else if (p[i].token != token || ++run > b->topk)
            return fail(why, ERR_PROTOCOL, "pair %u names row %d after row %d", i, p[i].token, token);
    }
    if (token + 1 != (int)h->tokens) return fail(why, ERR_PROTOCOL, "pairs for %d of %u rows", token + 1, h->tokens);
    return 0;
}

int ep_frame_check_combine(const struct ep_header *h, int pairs, int hidden, int extra, struct why *why) {
    if (h->hidden != (uint32_t)hidden) return fail(why, ERR_PROTOCOL, "rows of %u elements, expected %d", h->hidden, hidden);
    if (h->tokens) return fail(why, ERR_PROTOCOL, "%u tokens in an answer, expected none", h->tokens);
    if (h->pairs != (uint32_t)pairs) return fail(why, ERR_PROTOCOL, "%u rows, %d were asked for", h->pairs, pairs);
    if (h->extra != (uint32_t)extra)
        return fail(why, ERR_PROTOCOL, "%u floats beside each row, expected %d", h->extra, extra);
    size_t want = ep_combine_bytes(pairs, hidden, extra);
    if (h->bytes != want) return fail(why, ERR_PROTOCOL, "%llu bytes, its rows need %zu", (unsigned long long)h->bytes, want);
    return 0;
}
