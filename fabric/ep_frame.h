/* ep_frame.h - what an exchange frame looks like in memory and on the wire, and when one may be believed.
 *
 *   dispatch:  header | pairs: struct ep_pair [pairs] | weights: f32 [pairs], only fused | pad to 64 | rows: [tokens]
 *   relay:     the same with targets: u8 [pairs], ranks of the receiver's host, before the pad; passed on as dispatches
 *   combine:   header | rows: [pairs], in the order of the pairs that the home dispatched | extras: f32 [pairs, X]
 *   fused:     header | rows: [tokens], one sum per copy of a token that the home dispatched
 *
 * A message is what one worker has to say to another in one half of one layer of one microbatch. It goes in as many frames
 * ("parts") as it needs; which rows are in part p follows from p alone, so parts may come in any order. Most messages have one.
 * Little-endian, packed straight into the transport's 64-byte aligned memory. Checks are pure: they read the frame, judge it
 * against limits and fill `why`; nothing in a frame is used before its check passed. Any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "fabric/ep_payload.h"

enum { EP_MAGIC = 0x50456443, EP_VERSION = 3, EP_ALIGN = 64 }; /* "CdEP" */
enum ep_kind { EP_DISPATCH, EP_COMBINE, EP_RELAY, EP_KINDS };

struct ep_header {
    uint32_t magic;
    uint16_t version;
    uint8_t kind, format; /* enum ep_kind, enum ep_format */
    uint64_t step;
    uint32_t epoch;
    uint16_t layer;
    uint8_t microbatch;
    uint8_t extra;       /* combine: X, floats beside each row; dispatch: 0 */
    uint16_t source;     /* rank of the sender */
    uint16_t home;       /* rank whose tokens these are; the source's own, but for a dispatch that was relayed and answers */
    uint16_t part, parts;
    uint32_t tokens;     /* dispatch, fused: rows of this frame; else 0 */
    uint32_t pairs;      /* dispatch: (token, slot) pairs; combine: rows; fused: 0 */
    uint32_t hidden;     /* H */
    uint32_t all_tokens; /* the same of the whole message */
    uint32_t all_pairs;
    uint32_t first_pair; /* dispatch: pairs of the parts before; else 0 */
    uint64_t bytes;      /* of the whole frame */
};
struct ep_pair {    /* one route, in the home's (token, k) order */
    uint16_t token; /* row of this frame */
    uint16_t slot;  /* at the receiver */
};
_Static_assert(sizeof(struct ep_header) == 64, "header is one line");
_Static_assert(offsetof(struct ep_header, kind) == 6 && offsetof(struct ep_header, step) == 8, "wire offsets");
_Static_assert(offsetof(struct ep_header, epoch) == 16 && offsetof(struct ep_header, layer) == 20, "wire offsets");
_Static_assert(offsetof(struct ep_header, source) == 24 && offsetof(struct ep_header, part) == 28, "wire offsets");
_Static_assert(offsetof(struct ep_header, tokens) == 32 && offsetof(struct ep_header, hidden) == 40, "wire offsets");
_Static_assert(offsetof(struct ep_header, all_tokens) == 44 && offsetof(struct ep_header, bytes) == 56, "wire offsets");
_Static_assert(sizeof(struct ep_pair) == 4 && offsetof(struct ep_pair, slot) == 2, "wire offsets");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are little-endian");

/* Where in a step a frame belongs. Ascending in the life of a worker, for each microbatch and kind. */
struct ep_key {
    uint32_t epoch;
    uint64_t step;
    int layer; /* -1: before the first */
};
struct ep_key ep_frame_key(const struct ep_header *h);
int ep_key_order(const struct ep_key *a, const struct ep_key *b); /* < 0, 0, > 0 */

/* What all frames of a cluster have in common. */
struct ep_wire {
    int max_tokens, topk, hidden, extra;
    enum ep_format dispatch, combine; /* of rows */
    bool fused;                       /* combine is one fixed-point sum per token: EP_SUM32 or EP_SUM64, as its frame says */
    int part_tokens, part_answers;    /* most rows in a frame: of a dispatch, of a combine */
};
/* Sets the last two, for frames of at most frame_bytes. */
int ep_wire_init(struct ep_wire *w, size_t frame_bytes); /* 0, or ERR_TOO_LARGE when not even one row fits */
/* Bytes of a frame that takes the dispatch of so many tokens and pairs, or so many rows of answers. */
size_t ep_dispatch_bytes(const struct ep_wire *w, enum ep_kind kind, int tokens, int pairs); /* or of a relay */
size_t ep_combine_bytes(const struct ep_wire *w, int rows, enum ep_format format);
size_t ep_frame_room(const struct ep_wire *w, int tokens, int answers); /* enough for either, in one part */

/* The rows of a message, of which part p has [p * most, p * most + n). */
static inline int ep_parts(int rows, int most) { return rows ? (rows + most - 1) / most : 1; }
static inline int ep_part_rows(int rows, int most, int part) {
    int left = rows - part * most;
    return left < most ? left : most;
}

struct ep_part {
    struct ep_key key;
    enum ep_kind kind;
    int microbatch, source, home;
    int part, tokens, pairs;               /* of this frame */
    int all_tokens, all_pairs, first_pair; /* of the message */
    enum ep_format format;
};
/* Writes the header of a frame whose counts are known; room must be 64-byte aligned. Returns the bytes of the frame. */
size_t ep_frame_begin(void *room, const struct ep_wire *w, const struct ep_part *p);
/* Where things are in a frame with a header; receivers: only after ep_frame_check. */
static inline struct ep_pair *ep_frame_pairs(void *frame) {
    return (struct ep_pair *)((unsigned char *)frame + sizeof(struct ep_header));
}
float *ep_frame_weights(void *frame);                              /* of a fused dispatch, [pairs] */
uint8_t *ep_frame_targets(const struct ep_wire *w, void *frame);   /* of a relay, [pairs] */
unsigned char *ep_frame_rows(const struct ep_wire *w, void *frame);
float *ep_frame_extras(const struct ep_wire *w, void *frame);      /* of a combine frame, [pairs, X] */
static inline int ep_frame_row_count(const struct ep_header *h) {
    return (int)(h->kind != EP_COMBINE || !h->pairs ? h->tokens : h->pairs);
}

/* Is this a frame of ours from `source` at all? After 0 the key, the kind and the microbatch may be read, nothing else.
 * ERR_PROTOCOL. */
int ep_frame_open(const void *frame, size_t bytes, int source, const struct ep_header **out, struct why *why);
/* May its rows and pairs be copied to where they belong in a message within the limits of w? */
int ep_frame_check(const struct ep_header *h, const struct ep_wire *w, struct why *why);
/* Does what came add up to pairs and rows that this worker can use: each row wanted at least once, at most topk times, in
 * order? pairs: of the whole message. */
struct ep_bounds {
    int tokens, topk; /* at most so many rows, and pairs per row */
    int slots;
};
int ep_check_pairs(const struct ep_pair *pairs, int n_pairs, int n_tokens, const struct ep_bounds *b, struct why *why);
