/* link_ucx.h - a UCX handle's attachment to one life of a peer: its endpoint, its buffers and both windows.
 *
 * Frames are active messages with a header of ours. Frame n of a stream may be sent while n < freed + FABRIC_DEPTH, where
 * `freed` is how many frames in a row the receiver has given back; each header carries it for the other direction, and a notice
 * (a header without a frame) carries it when no frame is going that way. So every frame that arrives finds a free buffer, and
 * nothing piles up inside UCX. Both ends send from and receive into buffers of the link, lowest free one first, which keeps few
 * of them warm. Buffers outlive the endpoint: UCX may still read or write them until each request has ended, and the owner
 * may still read frames it has taken. A link that is let go stays, retired, until both are over.
 *
 *   opened ── the peer's first message ──► greeted      reserve gives room only then: the peer has memory for frames
 *      └───────────┴── UCX error, or let go ──► broken  silent for good
 *
 * Owner: whoever owns the handle. */
#pragma once
#include "fabric/fabric.h"

enum { LINK_FRAME = 1, LINK_NOTICE = 2 }; /* active message ids */
enum { LINK_BYE = 1 };                    /* flags of a header: this was the last message, orderly */

struct link_header {      /* of every message; in the sender's byte order: one cluster runs one kind of CPU */
    uint64_t to;          /* the nonce of the process it is for: nobody else's messages get in */
    uint32_t incarnation; /* the sender's: tells lives of one rank apart */
    uint16_t rank, flags; /* the sender's rank */
    uint64_t number;      /* of a frame: its place in the stream, from 0 */
    uint64_t freed;       /* of the other direction */
};

struct link_host { /* what links of one handle share */
    struct ucp_worker *worker;
    int rank;
    uint32_t incarnation;
    bool news;       /* a frame arrived, or room was made for one who was refused */
    bool failing;    /* a link broke whose endpoint is still to be closed */
    bool unflushed;  /* something was sent since the last flush began */
    int closing;     /* endpoints being closed */
    uint64_t untold; /* ranks that do not know all that was given back */
};

enum link_state { LINK_EMPTY, LINK_COMING, LINK_WHOLE, LINK_TAKEN, LINK_GIVEN };

struct link_in { /* a frame of the receive window */
    struct link *link;
    enum link_state state;
    int buffer;
    size_t bytes;
};
struct link_out { /* a buffer to send from */
    struct link *link;
    struct link_header header;
};

struct link {
    struct link_host *host;
    struct link *next; /* of the retired */
    struct ucp_ep *ep; /* NULL once closed */
    int peer;
    uint32_t incarnation;
    uint64_t nonce;
    bool greeted, broken, bye;
    int pending; /* requests UCX has not ended */

    unsigned char *map; /* FABRIC_DEPTH buffers to send from, FABRIC_DEPTH to receive into */
    size_t slot_bytes, map_bytes;

    struct link_out out[FABRIC_DEPTH];
    unsigned out_busy; /* mask over buffers */
    uint64_t sent, sent_freed;
    int reserved; /* buffer of the open reservation; -1 */
    size_t reserved_bytes;
    bool starved; /* a reserve failed since there was room */

    struct link_in in[FABRIC_DEPTH]; /* by number */
    unsigned in_busy;                /* mask over buffers */
    uint64_t next_take, freed, told;
    int taken;

    struct link_header notice;
    bool notice_busy;
};

int link_new(struct link_host *host, int peer, uint32_t incarnation, uint64_t nonce, size_t slot_bytes, struct link **out,
             struct why *why);
/* Connects; the address lies behind the one ours begins with. A peer that cannot be reached at all is an error, one that does
 * not answer is not. */
int link_connect(struct link *l, const void *worker_address, struct why *why);
/* Closes the endpoint at once; what is under way ends cancelled, in later progress. Harmless when closed. */
void link_disconnect(struct link *l);
/* Whether nothing holds its memory any more; then link_free may be called. */
bool link_idle(const struct link *l);
void link_free(struct link *l);

void *link_reserve(struct link *l, size_t bytes); /* NULL when full */
void link_commit(struct link *l, size_t bytes);
const void *link_take(struct link *l, size_t *bytes);
/* Whether the frame was one of this link's. */
bool link_give(struct link *l, const void *frame);
/* Sends a notice, unless one is still under way: then the peer stays in host->untold. */
void link_tell(struct link *l, unsigned flags);

/* What a message says about the other direction; any message of the peer greets. */
void link_hear(struct link *l, const struct link_header *h);
/* Takes in a frame: data is the frame, or UCX's descriptor of it when it is to be fetched. Whether the header was true. */
bool link_arrive(struct link *l, const struct link_header *h, void *data, size_t bytes, bool fetch);
/* From now on silent; says so once. */
void link_break(struct link *l, const char *doing, int ucs_status);
