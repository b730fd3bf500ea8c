/* ep_frame.h - what an exchange frame looks like in memory and on the wire, and when one may be believed.
 *
 *   dispatch:  header | pairs: struct ep_pair [pairs] | pad to 64 | rows: [tokens, H]
 *   combine:   header | rows: [pairs, H], in the order of the pairs that the home dispatched | extras: [pairs, X]
 *
 * Little-endian, packed straight into the transport's 64-byte aligned memory. Checks are pure: they read the frame, judge it
 * against limits and fill `why`; nothing in a frame is used before its check passed. Any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { EP_MAGIC = 0x50456443, EP_VERSION = 2, EP_ALIGN = 64 }; /* "CdEP" */
enum ep_kind { EP_DISPATCH = 1, EP_COMBINE = 2 };              /* in the order in which a layer sends them */
enum ep_format { EP_F32 = 1 };                                 /* of the rows */

struct ep_header {
    uint32_t magic;
    uint16_t version;
    uint8_t kind, format;
    uint64_t step;
    uint32_t epoch;
    uint16_t layer;
    uint16_t microbatch; /* 0: a step is one batch */
    uint16_t source;     /* rank of the sender */
    uint16_t flags;      /* 0 */
    uint32_t tokens;     /* dispatch: rows; combine: 0 */
    uint32_t pairs;      /* dispatch: (token, slot) pairs; combine: rows */
    uint32_t hidden;     /* H */
    uint64_t bytes;      /* of the whole frame */
    uint32_t extra;      /* combine: X, floats beside each row; dispatch: 0 */
    uint8_t zero[12];
};
struct ep_pair {    /* one route, in the home's (token, k) order */
    uint16_t token; /* row of this frame */
    uint16_t slot;  /* at the receiver */
};
_Static_assert(sizeof(struct ep_header) == 64, "header is one line");
_Static_assert(offsetof(struct ep_header, kind) == 6 && offsetof(struct ep_header, step) == 8, "wire offsets");
_Static_assert(offsetof(struct ep_header, epoch) == 16 && offsetof(struct ep_header, layer) == 20, "wire offsets");
_Static_assert(offsetof(struct ep_header, source) == 24 && offsetof(struct ep_header, tokens) == 28, "wire offsets");
_Static_assert(offsetof(struct ep_header, hidden) == 36 && offsetof(struct ep_header, bytes) == 40, "wire offsets");
_Static_assert(offsetof(struct ep_header, extra) == 48, "wire offsets");
_Static_assert(sizeof(struct ep_pair) == 4 && offsetof(struct ep_pair, slot) == 2, "wire offsets");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are little-endian");

/* Where in the exchange a frame belongs; frames of one stream come in ascending order. */
struct ep_key {
    uint32_t epoch;
    uint64_t step;
    int layer;
    enum ep_kind kind;
};
struct ep_key ep_frame_key(const struct ep_header *h);
int ep_key_order(const struct ep_key *a, const struct ep_key *b); /* < 0, 0, > 0 */

size_t ep_dispatch_bytes(int tokens, int pairs, int hidden);
size_t ep_combine_bytes(int pairs, int hidden, int extra);

/* Writes the header of a frame whose counts are known; room must be 64-byte aligned. extra: of combine frames, else 0. */
struct ep_counts {
    int tokens, pairs, hidden, extra;
};
void ep_frame_begin(void *room, const struct ep_key *key, int source, const struct ep_counts *n);
static inline struct ep_pair *ep_frame_pairs(void *frame) {
    return (struct ep_pair *)((unsigned char *)frame + sizeof(struct ep_header));
}
float *ep_frame_rows(void *frame);   /* of a frame with a header; receivers: only after its check */
float *ep_frame_extras(void *frame); /* of a combine frame, as above */

/* Is this a frame of ours from `source` at all? After 0 the key may be read, nothing else. ERR_PROTOCOL. */
int ep_frame_open(const void *frame, size_t bytes, int source, const struct ep_header **out, struct why *why);
struct ep_bounds {
    int tokens, topk; /* at most so many rows, and pairs per row */
    int slots, hidden;
};
int ep_frame_check_dispatch(const struct ep_header *h, const struct ep_bounds *b, struct why *why);
int ep_frame_check_combine(const struct ep_header *h, int pairs, int hidden, int extra, struct why *why);
