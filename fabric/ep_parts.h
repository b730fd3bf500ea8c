/* ep_parts.h - what ep.c, ep_inbox.c and ep_send.c share. Internal to fabric/. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>

#include "fabric/ep.h"
#include "fabric/ep_frame.h"
#include "fabric/ep_layout.h"

enum ep_phase { EP_READY, EP_DISPATCHING, EP_DISPATCHED, EP_WORKING, EP_ANSWERING, EP_ANSWERED };

/* What one peer has to say in one half of a layer, as far as it has come. Its content is in its only frame, left where it
 * arrived ("held"), or copied to memory of its own. */
struct ep_message {
    struct ep_key key;   /* of the frames below; meaningless when got is 0 */
    int got, parts;      /* frames that came, of how many */
    bool good;           /* complete and checked */
    uint32_t tokens, pairs, pairs_got;
    const void *frame;   /* held; NULL: copied */
    const struct ep_pair *pair;
    const float *weight, *extra;
    const unsigned char *rows;
    enum ep_format format; /* of rows */
    uint64_t *seen;      /* [parts] bits */
    unsigned char *own;  /* memory of its own, address space until used */
};

/* Places for messages of a peer: the dispatch and the answer of the layer that this worker is in; a dispatch of a later one. */
enum { EP_AHEAD = EP_KINDS, EP_PLACES };

/* One microbatch. */
struct ep_lane {
    struct ep_key key; /* what is being exchanged now */
    enum ep_phase phase;
    struct ep_send send;
    struct ep_split split;
    struct ep_group group;
    float *x, *y, *extra;    /* [R * T max * k, H] twice and [.., X], address space until used */
    unsigned char *packed;   /* [T max] rows in the format of dispatch, where that is not f32 */
    float *answers;          /* [T max * k, H], fused [T max, H]: rows that are not lent as they came; NULL: they are */
    unsigned char *scratch;  /* one row in the format of combine, where that is not f32 */
    int64_t *sums;           /* [T max, H] fused only, and so are the next two: */
    uint16_t *pair_token;    /* [R, T max * k] the pairs' rows at their source */
    float *pair_weight;      /* [R, T max * k] */
    int group_tokens[FABRIC_MAX_RANKS]; /* copies from each source */
    uint64_t posted;         /* who has been sent all of this phase's message */
    int part[FABRIC_MAX_RANKS], pair[FABRIC_MAX_RANKS]; /* where posting to the others stands */
    struct ep_message in[EP_PLACES][FABRIC_MAX_RANKS];
    struct ep_key last[EP_KINDS][FABRIC_MAX_RANKS]; /* of the message that was used last: its frames are duplicates by now */
};

struct ep {
    struct fabric *fabric; /* NULL when alone */
    struct ep_limits lim;
    struct ep_wire wire;
    int rank, size;
    uint64_t others, members; /* masks: everyone else who takes part; as set, from the next step on */
    int32_t tokens[FABRIC_MAX_RANKS]; /* of the plan */
    uint64_t sources;                 /* others with tokens: they dispatch to us and expect an answer */
    bool brings;                      /* we have tokens: we dispatch to all others and get their answers */
    struct ep_lane lane[EP_MICROBATCHES];
    bool lent; /* some lane's answers are in the caller's hands */

    struct ep_stream {
        int held;   /* frames of its stream that messages hold */
        int passed; /* given back since one is held: they make room only after it */
    } stream[FABRIC_MAX_RANKS];
    uint64_t bad;        /* whose frames were refused since the last verdict */
    uint64_t complained; /* about whom in this step: one line each */
    atomic_uint told;    /* the latest epoch that somebody knows of */
    void *map;
    size_t map_bytes;
    uint64_t *bits;      /* of all messages */
    struct ep_counters count;
};

static inline uint64_t ep_bit(int worker) { return UINT64_C(1) << worker; }
static inline int ep_next(uint64_t *mask) {
    int w = __builtin_ctzll(*mask);
    *mask &= *mask - 1;
    return w;
}
static inline size_t ep_floats(const struct ep *ep, size_t rows) { return rows * (size_t)ep->lim.hidden; }
static inline int ep_max_pairs(const struct ep *ep) { return ep->lim.max_tokens * ep->lim.topk; }

/* ---- ep_inbox.c: from frames to messages ---- */

/* Takes every frame that is there, of everyone, and files it. Frames no longer wanted are given back at once, and so is every
 * frame that would keep its stream from moving: whoever waits for room gets it as long as we drain. */
void ep_drain(struct ep *ep);
/* Forgets the message and gives its frame back. */
void ep_message_end(struct ep *ep, int peer, struct ep_message *m);
/* Is it there, whole and sound, for the layer that the lane is in? Judges it when it is new; a bad one is dropped. */
bool ep_message_ready(struct ep *ep, struct ep_lane *l, enum ep_kind kind, int peer);
/* Logs the first refusal of a step and peer; the next verdict of a wait names it. */
void ep_refuse(struct ep *ep, int peer, const struct ep_key *key, const struct why *why);
size_t ep_message_bytes(const struct ep *ep, int place); /* of memory of its own */
int ep_message_most_parts(const struct ep *ep, int place);

/* ---- ep_send.c: packing and posting ---- */

/* Works on the lane's phase until everyone in `to` was sent its message. 0, ERR_LATE, ERR_EPOCH or ERR_GONE. */
int ep_post(struct ep *ep, struct ep_lane *l, enum ep_kind kind, uint64_t to, int64_t deadline_us);
/* One wait for news, short of the deadline also when told of a later epoch. 0, ERR_DEADLINE, ERR_EPOCH, ERR_GONE. */
int ep_wait_news(struct ep *ep, const struct ep_lane *l, int64_t deadline_us);
