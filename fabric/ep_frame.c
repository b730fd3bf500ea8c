/* ep_frame.c - sizes, order and checks of exchange frames.
 *
 * A peer is trusted to be a Cadre worker, not to be right: it may run another version, follow another plan, or have a bug. A
 * frame is therefore judged in three steps: the envelope, which says where in the exchange it belongs (older ones are dropped
 * without a look inside); the shape, every count of it against the limits of the cluster, before anything of it is copied; and,
 * when the whole message has come and its turn too, its pairs against what this worker has. */
#include "fabric/ep_frame.h"

#include <string.h>

#include "fabric/ep.h"

static size_t lines(size_t bytes) { return (bytes + EP_ALIGN - 1) / EP_ALIGN * EP_ALIGN; }
static size_t pair_bytes(const struct ep_wire *w, enum ep_kind kind) {
    return sizeof(struct ep_pair) + (w->fused ? sizeof(float) : 0) + (kind == EP_RELAY);
}

static size_t dispatch_rows_at(const struct ep_wire *w, enum ep_kind kind, int pairs) {
    return sizeof(struct ep_header) + lines((size_t)pairs * pair_bytes(w, kind));
}
static size_t answer_bytes(const struct ep_wire *w, enum ep_format f) {
    return ep_row_bytes(f, w->hidden) + (size_t)w->extra * sizeof(float);
}
static enum ep_format widest(const struct ep_wire *w) { return w->fused ? EP_SUM64 : w->combine; }

size_t ep_dispatch_bytes(const struct ep_wire *w, enum ep_kind kind, int tokens, int pairs) {
    return dispatch_rows_at(w, kind, pairs) + (size_t)tokens * ep_row_bytes(w->dispatch, w->hidden);
}

size_t ep_combine_bytes(const struct ep_wire *w, int rows, enum ep_format format) {
    return sizeof(struct ep_header) + (size_t)rows * answer_bytes(w, format);
}

size_t ep_frame_room(const struct ep_wire *w, int tokens, int answers) {
    size_t dispatch = ep_dispatch_bytes(w, EP_RELAY, tokens, tokens * w->topk) + EP_ALIGN,
           combine = ep_combine_bytes(w, answers, widest(w));
    return dispatch > combine ? dispatch : combine;
}

int ep_wire_init(struct ep_wire *w, size_t frame_bytes) {
    size_t token = ep_row_bytes(w->dispatch, w->hidden) + (size_t)w->topk * pair_bytes(w, EP_RELAY);
    if (frame_bytes < ep_frame_room(w, 1, 1)) return ERR_TOO_LARGE;
    size_t tokens = (frame_bytes - sizeof(struct ep_header) - EP_ALIGN) / token,
           answers = (frame_bytes - sizeof(struct ep_header)) / answer_bytes(w, widest(w));
    w->part_tokens = tokens > (size_t)w->max_tokens ? w->max_tokens : (int)tokens;
    size_t most = (size_t)w->max_tokens * (size_t)(w->fused ? 1 : w->topk);
    w->part_answers = answers > most ? (int)most : (int)answers;
    return ep_parts((int)most, w->part_answers) > UINT16_MAX || ep_parts(w->max_tokens, w->part_tokens) > UINT16_MAX
               ? ERR_TOO_LARGE
               : 0;
}

float *ep_frame_weights(void *frame) {
    const struct ep_header *h = frame;
    return (float *)(ep_frame_pairs(frame) + h->pairs);
}

uint8_t *ep_frame_targets(const struct ep_wire *w, void *frame) {
    const struct ep_header *h = frame;
    return (uint8_t *)(ep_frame_weights(frame) + (w->fused ? h->pairs : 0));
}

unsigned char *ep_frame_rows(const struct ep_wire *w, void *frame) {
    const struct ep_header *h = frame;
    enum ep_kind kind = (enum ep_kind)h->kind;
    return (unsigned char *)frame + (kind != EP_COMBINE ? dispatch_rows_at(w, kind, (int)h->pairs) : sizeof *h);
}

float *ep_frame_extras(const struct ep_wire *w, void *frame) {
    const struct ep_header *h = frame;
    return (float *)(ep_frame_rows(w, frame) + (size_t)h->pairs * ep_row_bytes(w->combine, w->hidden));
}

struct ep_key ep_frame_key(const struct ep_header *h) {
    return (struct ep_key){.epoch = h->epoch, .step = h->step, .layer = h->layer};
}

int ep_key_order(const struct ep_key *a, const struct ep_key *b) {
    if (a->epoch != b->epoch) return a->epoch < b->epoch ? -1 : 1;
    if (a->step != b->step) return a->step < b->step ? -1 : 1;
    return (a->layer > b->layer) - (a->layer < b->layer);
}

size_t ep_frame_begin(void *room, const struct ep_wire *w, const struct ep_part *p) {
    const bool there = p->kind != EP_COMBINE;
    int rows = there || w->fused ? p->tokens : p->pairs, all = there || w->fused ? p->all_tokens : p->all_pairs;
    size_t bytes = there ? ep_dispatch_bytes(w, p->kind, p->tokens, p->pairs) : ep_combine_bytes(w, rows, p->format);
    int parts = ep_parts(all, there ? w->part_tokens : w->part_answers);
    *(struct ep_header *)room = (struct ep_header){.magic = EP_MAGIC,
                                                   .version = EP_VERSION,
                                                   .kind = (uint8_t)p->kind,
                                                   .format = (uint8_t)p->format,
                                                   .step = p->key.step,
                                                   .epoch = p->key.epoch,
                                                   .layer = (uint16_t)p->key.layer,
                                                   .microbatch = (uint8_t)p->microbatch,
                                                   .extra = (uint8_t)(p->kind == EP_COMBINE ? w->extra : 0),
                                                   .source = (uint16_t)p->source,
                                                   .home = (uint16_t)p->home,
                                                   .part = (uint16_t)p->part,
                                                   .parts = (uint16_t)parts,
                                                   .tokens = (uint32_t)p->tokens,
                                                   .pairs = (uint32_t)p->pairs,
                                                   .hidden = (uint32_t)w->hidden,
                                                   .all_tokens = (uint32_t)p->all_tokens,
                                                   .all_pairs = (uint32_t)p->all_pairs,
                                                   .first_pair = (uint32_t)p->first_pair,
                                                   .bytes = bytes};
    if (there) { /* the pad: no byte of an earlier frame leaves the process */
        size_t end = sizeof(struct ep_header) + (size_t)p->pairs * pair_bytes(w, p->kind);
        memset((unsigned char *)room + end, 0, dispatch_rows_at(w, p->kind, p->pairs) - end);
    }
    return bytes;
}

int ep_frame_open(const void *frame, size_t bytes, int source, const struct ep_header **out, struct why *why) {
    const struct ep_header *h = frame;
    if (bytes < sizeof *h) return fail(why, ERR_PROTOCOL, "%zu bytes, a header has %zu", bytes, sizeof *h);
    if (h->magic != EP_MAGIC) return fail(why, ERR_PROTOCOL, "magic %08x, expected %08x", h->magic, EP_MAGIC);
    if (h->version != EP_VERSION)
        return fail(why, ERR_PROTOCOL, "frame version %d, expected %d: run the same cadre-worker everywhere", h->version,
                    EP_VERSION);
    if (h->bytes != bytes) return fail(why, ERR_PROTOCOL, "says %llu bytes, has %zu", (unsigned long long)h->bytes, bytes);
    if (h->source != source) return fail(why, ERR_PROTOCOL, "says it is from worker %d", h->source);
    if (h->kind >= EP_KINDS) return fail(why, ERR_PROTOCOL, "unknown kind %d", h->kind);
    if (h->microbatch >= EP_MICROBATCHES)
        return fail(why, ERR_PROTOCOL, "microbatch %d, there are %d", h->microbatch, EP_MICROBATCHES);
    *out = h;
    return 0;
}

static int check_dispatch(const struct ep_header *h, const struct ep_wire *w, struct why *why) {
    if (h->format != w->dispatch)
        return fail(why, ERR_PROTOCOL, "payload format %d, expected %s", h->format, ep_format_name(w->dispatch));
    if (h->extra) return fail(why, ERR_PROTOCOL, "%d floats beside the rows of a dispatch, expected none", h->extra);
    if (h->pairs > h->tokens * (uint32_t)w->topk || h->all_pairs > h->all_tokens * (uint32_t)w->topk)
        return fail(why, ERR_PROTOCOL, "%u of %u pairs for %u of %u tokens, at most %d each", h->pairs, h->all_pairs, h->tokens,
                    h->all_tokens, w->topk);
    return 0;
}

static int check_combine(const struct ep_header *h, const struct ep_wire *w, struct why *why) {
    bool known = w->fused ? h->format == EP_SUM32 || h->format == EP_SUM64 : h->format == w->combine;
    if (!known)
        return fail(why, ERR_PROTOCOL, "payload format %d, expected %s", h->format,
                    w->fused ? "sum32 or sum64" : ep_format_name(w->combine));
    if (h->extra != w->extra) return fail(why, ERR_PROTOCOL, "%d floats beside each row, expected %d", h->extra, w->extra);
    if ((w->fused ? h->all_pairs : h->all_tokens) || (w->fused ? h->pairs : h->tokens) || h->first_pair)
        return fail(why, ERR_PROTOCOL, "counts of a dispatch in an answer");
    return 0;
}

/* Rows and pairs of this part lie within the message; the message within what a worker may bring. */
static int check_counts(const struct ep_header *h, const struct ep_wire *w, struct why *why) {
    const bool tokens = h->kind != EP_COMBINE || w->fused;
    const int most = h->kind != EP_COMBINE ? w->part_tokens : w->part_answers;
    const uint32_t all = tokens ? h->all_tokens : h->all_pairs, rows = tokens ? h->tokens : h->pairs,
                   limit = (uint32_t)w->max_tokens * (tokens ? 1u : (uint32_t)w->topk);
    if (all > limit) return fail(why, ERR_PROTOCOL, "%u rows, at most %u", all, limit);
    int parts = ep_parts((int)all, most);
    if (h->parts != parts || h->part >= parts)
        return fail(why, ERR_PROTOCOL, "part %d of %d, %u rows make %d", h->part, h->parts, all, parts);
    if (rows != (uint32_t)ep_part_rows((int)all, most, h->part))
        return fail(why, ERR_PROTOCOL, "%u rows in part %d of %d, expected %d", rows, h->part, parts,
                    ep_part_rows((int)all, most, h->part));
    if (h->first_pair > h->all_pairs || h->pairs > h->all_pairs - h->first_pair)
        return fail(why, ERR_PROTOCOL, "pairs %u to %u of %u", h->first_pair, h->first_pair + h->pairs, h->all_pairs);
    return 0;
}

int ep_frame_check(const struct ep_header *h, const struct ep_wire *w, struct why *why) {
    if (h->hidden != (uint32_t)w->hidden)
        return fail(why, ERR_PROTOCOL, "rows of %u elements, expected %d", h->hidden, w->hidden);
    int rc = check_counts(h, w, why);
    if (rc >= 0) rc = h->kind != EP_COMBINE ? check_dispatch(h, w, why) : check_combine(h, w, why);
    if (rc < 0) return rc;
    size_t want = h->kind != EP_COMBINE
                      ? ep_dispatch_bytes(w, (enum ep_kind)h->kind, (int)h->tokens, (int)h->pairs)
                      : ep_combine_bytes(w, (int)(w->fused ? h->tokens : h->pairs), (enum ep_format)h->format);
    if (h->bytes != want) return fail(why, ERR_PROTOCOL, "%llu bytes, its counts need %zu", (unsigned long long)h->bytes, want);
    return 0;
}

/* In order and without gaps: so rows are neither missed nor sent for nothing. */
int ep_check_pairs(const struct ep_pair *p, int n_pairs, int n_tokens, const struct ep_bounds *b, struct why *why) {
    if (n_tokens > b->tokens) return fail(why, ERR_PROTOCOL, "%d tokens, the plan allows %d", n_tokens, b->tokens);
    int token = -1, run = 0;
    for (int i = 0; i < n_pairs; i++) {
        if (p[i].slot >= b->slots)
            return fail(why, ERR_PROTOCOL, "pair %d is for slot %d, there are %d", i, p[i].slot, b->slots);
        if (p[i].token == token + 1) token++, run = 1;
        else if (p[i].token != token || ++run > b->topk)
            return fail(why, ERR_PROTOCOL, "pair %d names row %d after row %d", i, p[i].token, token);
    }
    if (token + 1 != n_tokens) return fail(why, ERR_PROTOCOL, "pairs for %d of %d rows", token + 1, n_tokens);
    return 0;
}
