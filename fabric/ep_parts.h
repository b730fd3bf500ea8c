/* ep_parts.h - what ep.c and its parts (ep_memory.c, ep_inbox.c, ep_send.c, ep_relay.c) share. Internal to fabric/. */
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
    const uint8_t *target; /* of a relay */
    const unsigned char *rows;
    enum ep_format format; /* of rows */
    uint64_t *seen;      /* [parts] bits */
    unsigned char *own;  /* memory of its own, address space until used */
};

/* Tokens and pairs for one worker, and the packed rows that the tokens name. */
struct ep_list {
    struct ep_key key;
    int home, tokens, pairs;
    const int32_t *token;       /* [tokens] rows */
    const struct ep_pair *pair; /* [pairs] pair.token counts the list's tokens */
    const float *weight;        /* [pairs]; only fused */
    const uint8_t *target;      /* [pairs]; only of a relay */
    const unsigned char *rows;
};
/* How far a relay has passed on a home's rows; all of it when there is a key and nothing left. */
struct ep_passing {
    struct ep_key key; /* of the message; layer -1: of none yet */
    uint64_t left; /* to whom still; to the first of them from this part and pair on */
    int part, pair;
};

/* Places for messages of a peer: those of the layer that this worker is in, by kind; and a dispatch of a later one. */
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
    int64_t since_us;        /* when the wait of this phase began; 0: nothing was missing yet */
    int64_t counted_us;      /* up to when it is in wait_us */
    int part[FABRIC_MAX_RANKS], pair[FABRIC_MAX_RANKS]; /* where posting to the others stands */
    /* Two-hop dispatch. For each relay [R]: what goes there; of the home that is being relayed: what goes to one neighbour. */
    int far_tokens[FABRIC_MAX_RANKS], far_pairs[FABRIC_MAX_RANKS];
    int32_t *far_token;       /* [R, T max] */
    struct ep_pair *far_pair; /* [R, T max * k] and so the next two */
    uint8_t *far_target;
    float *far_weight;
    int picked_tokens, picked_pairs;
    int32_t *picked_token;
    struct ep_pair *picked_pair;
    float *picked_weight;
    struct ep_passing passing[FABRIC_MAX_RANKS];
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
    uint64_t host_mask[FABRIC_MAX_RANKS]; /* ranks of each host */
    uint64_t now_members;                 /* of this step */
    bool two_hop;                         /* as set, from the next step on */
    uint64_t direct, relays, relayed;     /* of this step: whom we dispatch to ourselves; who relays for us; for whom we do */
    int relay_to[FABRIC_MAX_RANKS];       /* by host: our relay there; -1: none needed */
    int through[FABRIC_MAX_RANKS];        /* by home: from whom its dispatch comes to us, a relay or itself */
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
/* Is it there, whole and sound? Judges it when it is new; a bad one is dropped. Of the step that the lane is in. */
bool ep_message_sound(struct ep *ep, struct ep_lane *l, enum ep_kind kind, int peer);
/* And for the layer that the lane is in? */
bool ep_message_ready(struct ep *ep, struct ep_lane *l, enum ep_kind kind, int peer);
/* Logs the first refusal of a step and peer; the next verdict of a wait names it. */
void ep_refuse(struct ep *ep, int peer, const struct ep_key *key, const struct why *why);
size_t ep_message_bytes(const struct ep *ep, int place); /* of memory of its own */
/* Turns a dispatch or a relay message to its own memory; says where what goes there. */
struct ep_own {
    struct ep_pair *pair;
    float *weight;
    unsigned char *rows;
    uint8_t *target;
};
struct ep_own ep_message_own(const struct ep *ep, struct ep_message *m);
int ep_message_most_parts(const struct ep *ep, int place);

/* ---- ep_send.c: packing and posting ---- */

/* Works on the lane's phase until everyone in `to` was sent its message. 0, ERR_LATE, ERR_EPOCH or ERR_GONE. */
int ep_post(struct ep *ep, struct ep_lane *l, enum ep_kind kind, uint64_t to, int64_t deadline_us);
/* Sends a part of a list as dispatch or relay; *pair is the first pair of the part, then of the next. false: no room now. */
bool ep_send_list(struct ep *ep, struct ep_lane *l, enum ep_kind kind, int to, const struct ep_list *list, int part, int *pair);
/* One wait for news, short of the deadline also when told of a later epoch. 0, ERR_DEADLINE, ERR_EPOCH, ERR_GONE. */
int ep_wait_news(struct ep *ep, const struct ep_lane *l, int64_t deadline_us);

/* ---- ep_relay.c: two-hop dispatch ---- */

void ep_relay_begin(struct ep *ep);                      /* of a step: who relays what for whom */
void ep_relay_split(struct ep *ep, struct ep_lane *l);   /* of a dispatch */
/* Passes on what has come and fits, of all lanes. Part of every ep_drain. */
void ep_relay_work(struct ep *ep);
/* Who keeps this worker from having passed on all of the lane's layer: homes whose message has not come, neighbours who take
 * nothing. */
uint64_t ep_relay_missing(const struct ep *ep, const struct ep_lane *l);
/* Whom those are waiting for that wait for dispatches of these homes: relays that passed nothing on stand for them. */
uint64_t ep_relay_late(const struct ep *ep, uint64_t homes);
