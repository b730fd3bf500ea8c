/* ep.h - the expert all-to-all of one worker: dispatch tokens to the workers that hold their experts, combine the rows back.
 *
 * Per step, the plan tells every worker how many tokens each worker has. Per MoE layer, a worker with tokens sends every
 * peer one dispatch frame (it may be empty) and gets one combine frame back from each; a worker without tokens sends no
 * dispatch, but receives, computes and answers. A token crosses to a worker once, however many of its experts live there; one
 * row per (token, k) comes back, and the home sums them in k order, so results do not depend on placement.
 * Rows for experts of the home itself take the same road without the fabric, and get the same payload format.
 *
 *   step_begin -> for each MoE layer: dispatch_post -> (own work) -> dispatch_wait -> (experts) -> combine_post -> combine_wait
 *
 * Every frame carries (epoch, step, layer, kind): older ones are discarded, newer ones held (a faster peer may be one phase
 * ahead), duplicates ignored. Completion is counted per peer, never inferred from bytes. Waits have deadlines; a late peer is
 * named, not judged: only the coordinator declares deaths.
 * Memory is sized at ep_new for the largest step; nothing allocates afterwards. Owner: the engine thread. */
#pragma once
#include <stdint.h>

#include "fabric/fabric.h"

struct ep_limits {
    int max_tokens;   /* T a worker may bring to a step */
    int max_slots;    /* slots of any worker in any layer */
    int hidden, topk; /* H, k */
    int extra;        /* X: floats that come back beside each row; 0: none */
};

/* What home asks for: T tokens, each with k routes. Borrowed until combine_wait returns. */
struct ep_send {
    int tokens;
    const float *x;        /* [T,H] */
    const int16_t *worker; /* [T,k] destination of pair (t, j); -1: the pair goes nowhere and gets no row */
    const int16_t *slot;   /* [T,k] slot there */
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

struct ep_counters {                        /* since ep_new; read by the owner */
    uint64_t dispatch_bytes, combine_bytes; /* payload sent to others */
    uint64_t dispatch_rows, combine_rows;   /* token copies and result rows sent to others */
    uint64_t frames_stale, frames_duplicate, frames_bad;
    uint64_t wait_us[FABRIC_MAX_RANKS]; /* time this worker stood waiting for each peer, both halves */
};

struct ep;
size_t ep_frame_bytes(const struct ep_limits *l); /* what the fabric must carry */
size_t ep_bytes(const struct ep_limits *l, int workers); /* address space ep_new takes for rows; memory as rows come */
/* fabric is borrowed, its streams are this ep's from now on; may be NULL when alone (R = 1). ERR_INVALID, ERR_TOO_LARGE,
 * ERR_NOMEM */
int ep_new(struct fabric *f, const struct ep_limits *l, struct ep **out, struct why *why);
void ep_free(struct ep *ep);

/* tokens[R]: how many each worker may bring, from the plan; copied. Forgets unfinished business of earlier steps. (epoch, step)
 * must grow: a step that was given up is run again only under a later epoch, or its old frames would pass for new ones. */
void ep_step_begin(struct ep *ep, uint32_t epoch, uint64_t step, const int32_t *tokens);
/* slots: how many slots this worker has in this layer. send->tokens may be less than the plan gave (sequences end); for 0 send
 * may be NULL. Returns 0, or ERR_LATE when a stream stays full until the deadline: call again with the same arguments to go
 * on, or begin another step. */
int ep_dispatch_post(struct ep *ep, int layer, const struct ep_send *send, int slots, int64_t deadline_us);
/* Returns 0 with *out set, ERR_LATE with *late = bit mask of the peers missing, ERR_PROTOCOL for a frame that lies about its
 * shape (logged, dropped, *late names the sender), ERR_GONE when this rank was killed. May be called again after ERR_LATE. */
int ep_dispatch_wait(struct ep *ep, struct ep_work *out, int64_t deadline_us, uint64_t *late);
int ep_combine_post(struct ep *ep, int64_t deadline_us);
/* rows[t*k + j] = the row of pair (t, j), NULL for one that went nowhere; valid until the next dispatch_post. Same results as
 * dispatch_wait. */
int ep_combine_wait(struct ep *ep, const float **rows, int64_t deadline_us, uint64_t *late);
/* After combine_wait, until the next dispatch_post: out[t*k + j] = the X floats that came beside the row of pair (t, j); zeros
 * for a pair that went nowhere. */
void ep_extras(const struct ep *ep, float *out);
/* Before sleeping anywhere but in the waits above: works until the answers given are on their way; 0 or ERR_DEADLINE. May be
 * called again, also in slices; a new step may begin without it. */
int ep_flush(struct ep *ep, int64_t deadline_us);
const struct ep_counters *ep_counters(const struct ep *ep);
