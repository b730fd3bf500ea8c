/* ep.h - the expert all-to-all of one worker: dispatch tokens to the workers that hold their experts, combine the rows back.
 *
 * Per step, the plan tells every worker how many tokens each worker has. Per MoE layer, a worker with tokens sends every
 * peer one dispatch message (it may be empty) and gets one combine message back from each; a worker without tokens sends no
 * dispatch, but receives, computes and answers. A token crosses to a worker once, however many of its experts live there; one
 * row per (token, k) comes back, and the home sums them in k order, so results do not depend on placement.
 * Rows for experts of the home itself take the same road without the fabric, and get the same payload format.
 *
 *   step_begin -> for each MoE layer: dispatch_post -> (own work) -> dispatch_wait -> (experts) -> combine_post -> combine_wait
 *
 * A step may be cut into two microbatches, whose layers go through these calls each for itself, so that the frames of one
 * travel while the other computes. All workers cut alike: a worker with tokens sends messages in both, if need be empty ones.
 * All workers make the calls of a step in the same order.
 *
 * Every frame carries (epoch, step, layer, microbatch, kind): it is filed by that, whatever the order of arrival. Older ones
 * are dropped, newer ones held, duplicates ignored. Completion is counted per peer, never inferred from bytes. Waits have
 * deadlines; a late peer is named, not judged: only the coordinator declares deaths.
 * Memory is sized at ep_new for the largest step; nothing allocates afterwards. Owner: the engine thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "fabric/ep_payload.h"
#include "fabric/fabric.h"

enum { EP_MICROBATCHES = 2, EP_WAIT_BUCKETS = 24 };

struct ep_limits { /* the same on all workers */
    int max_tokens;   /* T a worker may bring to a step */
    int max_slots;    /* slots of any worker in any layer */
    int hidden, topk; /* H, k */
    int extra;        /* X: floats that come back beside each row; 0: none */
    enum ep_format dispatch, combine; /* how rows travel there and back; combine: f32 or bf16 */
    bool fused;       /* sums come back instead of rows (ep_fixed.h): weights are wanted, X is 0, combine is f32 */
    size_t frame_bytes; /* 0: ep_frame_bytes chooses */
    uint8_t host[FABRIC_MAX_RANKS]; /* by rank: equal for workers of one host, below FABRIC_MAX_RANKS */
};

/* What home asks for: T tokens, each with k routes. Borrowed until combine_wait returns. */
struct ep_send {
    int tokens;
    const float *x;        /* [T,H] */
    const int16_t *worker; /* [T,k] destination of pair (t, j); -1: the pair goes nowhere and gets no row */
    const int16_t *slot;   /* [T,k] slot there */
    const float *weights;  /* [T,k] of the pairs; only fused, else not looked at */
};

/* What arrived for this worker's experts, grouped by slot. Owned by ep until combine_post. */
struct ep_work {
    int rows;             /* n = sum of counts */
    const float *x;       /* [n,H] grouped by slot; within a slot by (source worker, token, k) */
    float *y;             /* [n,H] the caller fills it, same order, before combine_post */
    float *extra;         /* [n,X] the same */
    const int32_t *first; /* [slots + 1] rows of slot s = first[s] .. first[s+1] */
    int slots;
};

struct ep_link {                 /* with one peer */
    uint64_t bytes_out, bytes_in; /* whole frames */
    uint64_t frames_out, frames_in;
    uint64_t frames_extra; /* of frames_out: beyond the first of a message, which one frame did not hold */
    uint64_t frames_stale, frames_duplicate, frames_bad; /* of frames_in, dropped: too late, had before, not readable */
    uint64_t waits[EP_WAIT_BUCKETS]; /* how long this worker stood waiting for each message that came from the peer, also one
                                      * that it passed on, in however many calls: bucket 0 not at all or less than 1 us, bucket
                                      * b from 2^(b-1) to less than 2^b us, the last one all longer */
};
struct ep_far { /* what went to other hosts */
    uint64_t rows, answers;                 /* token copies, result rows */
    uint64_t direct;                        /* copies if there were no relays */
    uint64_t dispatch_bytes, combine_bytes; /* payload of these */
};
struct ep_counters {                        /* since ep_new; read by the owner */
    uint64_t dispatch_bytes, combine_bytes; /* payload sent to others */
    uint64_t dispatch_rows, combine_rows;   /* token copies and result rows sent to others */
    struct ep_far far;
    uint64_t wait_us[FABRIC_MAX_RANKS];     /* time this worker stood waiting for each peer's messages, or for those that it
                                             * is to pass on, or for room to post to it; both halves */
    uint64_t idle_us;                       /* time this worker stood waiting, for however many */
    struct ep_link link[FABRIC_MAX_RANKS];
};

/* All links together; waits are not added up. */
static inline struct ep_link ep_links_sum(const struct ep_counters *c) {
    struct ep_link all = {0};
    for (const struct ep_link *k = c->link; k < c->link + FABRIC_MAX_RANKS; k++) {
        all.bytes_out += k->bytes_out, all.bytes_in += k->bytes_in;
        all.frames_out += k->frames_out, all.frames_in += k->frames_in;
        all.frames_extra += k->frames_extra, all.frames_stale += k->frames_stale;
        all.frames_duplicate += k->frames_duplicate, all.frames_bad += k->frames_bad;
    }
    return all;
}

struct ep;
/* Limits that a cluster of so many workers can have: 0, ERR_INVALID or ERR_TOO_LARGE. */
int ep_check_limits(const struct ep_limits *l, int workers, struct why *why);
/* Both of limits that were checked. What the fabric must carry: twice the even share of a largest step, at least 64 KiB, at
 * most what such a step can need. */
size_t ep_frame_bytes(const struct ep_limits *l, int workers);
/* Rows of the largest step for this worker's experts, the worst case; memory as rows come. */
size_t ep_bytes(const struct ep_limits *l, int workers);
/* fabric is borrowed, its streams are this ep's from now on; may be NULL when alone (R = 1). ERR_INVALID, ERR_TOO_LARGE,
 * ERR_NOMEM */
int ep_new(struct fabric *f, const struct ep_limits *l, struct ep **out, struct why *why);
void ep_free(struct ep *ep);

/* Who takes part from the next step on: a mask of ranks, this one's set. At first everyone. */
void ep_set_members(struct ep *ep, uint64_t members);
/* Where all are from the next step on: host[R] as in the limits. All workers alike. */
void ep_set_hosts(struct ep *ep, const uint8_t *host);
/* From the next step on: tokens for workers of another host go there once, to a relay that passes them on (ep_relay.c). All
 * workers alike. Results do not depend on it. */
void ep_set_two_hop(struct ep *ep, bool on);
/* Any thread: there is a later epoch than the steps of `epoch - 1` and before, whose posts, waits and flushes now end with
 * ERR_EPOCH within 20 ms. An epoch earlier than one told before changes nothing. */
void ep_tell_epoch(struct ep *ep, uint32_t epoch);

/* tokens[R]: how many each worker may bring, from the plan; copied. microbatches: 1 or 2. Forgets unfinished business of
 * earlier steps. (epoch, step) must grow: a step that was given up is run again only under a later epoch, or its old frames
 * would pass for new ones. */
void ep_step_begin(struct ep *ep, uint32_t epoch, uint64_t step, const int32_t *tokens, int microbatches);
/* mb: which microbatch, from 0. slots: how many slots this worker has in this layer. send->tokens may be less than the plan
 * gave (sequences end); for 0 send may be NULL. Returns 0, ERR_EPOCH, or ERR_LATE when a stream stays full until the deadline:
 * call again with the same arguments to go on, or begin another step. */
int ep_dispatch_post(struct ep *ep, int mb, int layer, const struct ep_send *send, int slots, int64_t deadline_us);
/* Returns 0 with *out set, ERR_LATE with *late = bit mask of the peers missing, ERR_EPOCH, ERR_PROTOCOL for a frame that lies
 * about its shape (logged, dropped, *late names the sender), ERR_GONE when this rank was killed. May be called again after
 * ERR_LATE. */
int ep_dispatch_wait(struct ep *ep, int mb, struct ep_work *out, int64_t deadline_us, uint64_t *late);
int ep_combine_post(struct ep *ep, int mb, int64_t deadline_us);
/* rows[t*k + j] = the row of pair (t, j), NULL for one that went nowhere; fused: rows[t] = the sum of token t's rows times
 * their weights, all k rows' (never NULL). Valid until the next call that posts or waits, of either microbatch. Same results as
 * dispatch_wait. */
int ep_combine_wait(struct ep *ep, int mb, const float **rows, int64_t deadline_us, uint64_t *late);
/* After a post that was late: the peers whose streams stay full, that is who does not take what it is sent. */
uint64_t ep_unposted(const struct ep *ep, int mb);
/* As long as the rows: out[t*k + j] = the X floats that came beside the row of pair (t, j); zeros for a pair that went
 * nowhere. */
void ep_extras(const struct ep *ep, int mb, float *out);
/* Lets frames move between pieces of other work. Cheap. */
void ep_progress(struct ep *ep);
/* Before sleeping anywhere but in the waits above: works until the answers given are on their way; 0, ERR_LATE, ERR_EPOCH or
 * ERR_GONE. May be called again, also in slices; a new step may begin without it. */
int ep_flush(struct ep *ep, int64_t deadline_us);
const struct ep_counters *ep_counters(const struct ep *ep);
void ep_counters_reset(struct ep *ep); /* between steps */
