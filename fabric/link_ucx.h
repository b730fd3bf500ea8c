/* link_ucx.h - a UCX handle's attachment to one life of a peer: its endpoint, its buffers and both windows.
 *
 * Frames are active messages with a header of ours. A sender has at most FABRIC_DEPTH frames out that were not given back;
 * every header carries how many were, in the other direction, and a notice (a header without a frame) says so when no frame
 * is going that way. So each frame that arrives finds a free buffer, and nothing piles up inside UCX. Both ends use their
 * lowest free buffer, which keeps few of them warm. Buffers outlive the endpoint: UCX may still read or write them until
 * each request has ended, and the owner may still read frames it took. A link that was let go stays, retired, until then.
 *
 * Over TCP a frame goes in parts of at most LINK_PART bytes, and each is handed over at once or not at all, from our buffer to
 * the socket (UCP_OP_ATTR_FLAG_FORCE_IMM_CMPL). What does not fit into the socket now waits here, not in UCX. That keeps UCX's
 * own protocols out of it (rendezvous, fragments, the exchange of endpoint ids): in 1.13 a peer that dies in the middle of one
 * can take the process along. Where there is RDMA a frame goes as one message, by whichever protocol UCX finds best.
 *
 * Every header is proven (proof.h) under the key of whom it is for, and names the nonce of whom it is from: the greeting, which
 * is a notice, as well as each part of a frame. So both ends show that they have the secret before a byte is believed, and
 * what one life of a process was told is no proof to another. The rows themselves are neither hidden nor proven.
 *
 * Each attachment is a session, numbered by whoever attaches. A message names the sender's session and the receiver's as far
 * as the sender knows it. Who hears of a new session says so by a notice, and frames go only to a peer that has named this
 * session; so the frames between two sessions begin at 0 at both ends, whichever end attached last, or again.
 *
 *   opened ── the peer names our session ──► greeted    reserve gives room only then: the peer has memory for frames
 *      └───────────┴── UCX error, or let go ──► broken  silent, until attached again by either side
 *
 * Owner: whoever owns the handle. */
#pragma once
#include "fabric/fabric.h"
#include "fabric/link_header.h"
#include "fabric/net_ucx.h"

enum { LINK_FRAME = 1, LINK_NOTICE = 2 }; /* active message ids */
/* Bytes of a part: with its headers it is one segment of loopback TCP, not a full and a tiny one. */
enum { LINK_PART = 65024 };
enum {                    /* flags of a header */
       LINK_BYE = 1,      /* the last message, all frames are before it */
       LINK_BYE_HEARD = 2 /* the answer: they are all there */
};

struct link_host { /* what links of one handle share */
    struct net net;
    int rank;
    uint64_t nonce;
    uint32_t incarnation;
    bool at_once;       /* sending leaves nothing with UCX: TCP */
    uint64_t stuck;     /* ranks for whom something waits that UCX did not take */
    bool news;          /* a frame arrived, or room was made for one who was refused */
    bool failing;       /* a link broke whose endpoint is still to be closed */
    bool greetings;     /* a link heard of a new session */
    uint64_t byes;      /* ranks whose bye is to be answered */
    uint64_t unflushed; /* ranks for whom UCX took something since the last flush, or is to take a frame */
    int closing;        /* endpoints being closed */
    uint64_t untold;    /* ranks that do not know all that was given back */
};

enum link_state { LINK_EMPTY, LINK_COMING, LINK_WHOLE, LINK_TAKEN };

struct link_peer { /* whom a link is for */
    int rank;
    uint32_t incarnation;
    uint64_t nonce;
    struct proof_key key;
    void *address; /* UCX's, of its worker; the link's own copy */
    size_t address_bytes;
};
struct link_in { /* a buffer to receive into */
    struct link *link;
    enum link_state state;
    uint64_t number;
    size_t bytes, filled;
};
struct link_out { /* a buffer to send from */
    struct link *link;
    struct link_header header; /* of the part sent last, which UCX may still read */
    size_t bytes, taken;       /* of the frame; of them, those UCX took */
};

struct link {
    struct link_host *host;
    struct link *after; /* of the retired */
    ucp_ep_h ep;        /* NULL once closed */
    struct link_peer peer;
    uint32_t session, theirs, heard; /* ours; the peer's, 0 = none yet; the latest it was heard to have */
    bool named;                      /* the session heard last names ours */
    bool broken, bye, bye_heard;     /* bye: the peer's; bye_heard: it heard ours */
    bool spoke;                      /* something was sent: there is a connection */
    int64_t knocked_us;              /* when it was asked for */
    int pending;                     /* requests UCX has not ended */

    unsigned char *map; /* FABRIC_DEPTH buffers to send from, FABRIC_DEPTH to receive into */
    size_t slot_bytes, map_bytes;

    struct link_out out[FABRIC_DEPTH];
    unsigned busy;           /* mask over out: not sent yet */
    int queue[FABRIC_DEPTH]; /* of them, those that UCX has not taken whole, oldest first */
    int queued;
    uint64_t sent, sent_given;
    int reserved; /* buffer of the open reservation, the owner's to write until committed, whatever becomes of the link; -1 */
    size_t reserved_bytes;
    bool starved; /* a reserve failed since there was room */

    struct link_in in[FABRIC_DEPTH];
    uint64_t next; /* number of the frame to take next */
    uint64_t given, told;
    int taken;

    struct link_header notice;
    bool noticing; /* UCX still reads it */
};

/* Copies the address. slot_bytes: of a buffer, a multiple of 64. */
int link_new(struct link_host *host, const struct link_peer *peer, uint32_t session, size_t slot_bytes, struct link **out,
             struct why *why);
/* Connects and greets. A peer that cannot be reached is silent, as one that does not answer. */
void link_connect(struct link *l);
/* Closes the endpoint at once; what is under way ends cancelled, in later progress. Harmless when closed. */
void link_disconnect(struct link *l);
/* Whether nothing holds its memory any more; then link_free may be called. */
bool link_idle(const struct link *l);
void link_free(struct link *l);

void *link_reserve(struct link *l, size_t bytes); /* NULL when full */
void link_commit(struct link *l, size_t bytes);
const void *link_take(struct link *l, size_t *bytes);
/* Sends on what is stuck. Whether nothing is any more. */
bool link_push(struct link *l);
/* Whether the frame was one of this link's. */
bool link_give(struct link *l, const void *frame);
/* Sends a notice; where that is not possible now, the peer stays in host->untold. Over TCP it goes only when all before it has
 * left UCX. */
void link_tell(struct link *l, unsigned flags);

/* What any message of the peer's incarnation says. Whether it is of this session and for this one. */
bool link_hear(struct link *l, const struct link_header *h);
/* Whether the peer was heard to have a session that this link does not know. A fresh link takes it up and says so; one that
 * knew another, or broke, is to be replaced by a fresh one. */
static inline bool link_outdated(const struct link *l) { return l->heard != l->theirs; }
/* named: that session named ours. Lets nothing be forgotten that the link heard itself. */
void link_take_up(struct link *l, uint32_t theirs, bool named);
/* Takes in a frame: data is the frame, or UCX's descriptor of it when it is to be fetched. Whether the header was true. */
bool link_arrive(struct link *l, const struct link_header *h, void *data, size_t bytes, bool fetch);
/* From now on silent; says so once. */
void link_break(struct link *l, const char *doing, int ucs_status);

/* fabric_ucx_open with the choice made: at_once as in link_host. */
int fabric_ucx_open_as(int rank, int size, const struct fabric_net *net, bool at_once, struct fabric **out, struct why *why);
