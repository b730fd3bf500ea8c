/* member.h - which workers there are and how they are. Pure: (state, event, now) in, verdicts out; no I/O, no clock.
 *
 *   EXPECTED --Hello--> CONNECTED --Welcome sent--> LOADING --Ready--> READY <------> SUSPECT
 *     ^  ^              |     |                      |                 |   silent /    |
 *     |  +----silent----+     |                      |                 |   back        |
 *     |                       +--------+-------------+--------+--------+---------------+
 *     |                                |                      |
 *     |                                v                      v
 *     +------------------------------ DEAD                   LEFT     (Shutdown was sent and it is gone)
 *             member_forget: a restarted process may come
 *
 * Three deadlines, each with its own question. Lease: is the process alive? Every message renews it; a worker silent for half
 * of `lease_us` is suspect, and within `lease_us` after it fell silent it is declared dead. Before its Welcome it repeats its
 * Hello, and silent for so long it only loses its rank. Loading: as lease, with a longer deadline. Progress: does its engine
 * move? A worker that waits for a late peer says so (member_accuse) after its patience, and shows no progress either: who is to
 * blame is said at check_accused in member.c. One that owes progress (it is in a step, or has a plan) and shows none is dead
 * after `progress_us`, when nobody accuses anybody. A worker that moves is never to blame, however long its peers wait for it.
 * Time during which the caller itself did not run (no tick) counts against nobody. */
#pragma once
#include "base/status.h"
#include "coordinator/msg.h"

enum { MEMBER_PROTOCOL = 1 };
enum worker_state {
    WORKER_EXPECTED,
    WORKER_CONNECTED,
    WORKER_LOADING,
    WORKER_READY,
    WORKER_SUSPECT,
    WORKER_DEAD,
    WORKER_LEFT,
    WORKER_STATES
};
const char *worker_state_name(enum worker_state s); /* as in StatusReply */

struct member {
    enum worker_state state;
    char host[MSG_HOST_BYTES], host_id[MSG_HOST_BYTES];
    uint64_t pid;
    uint32_t incarnation;               /* of this process: given to it alone; 0: none yet */
    uint64_t memory;                    /* bytes it may use; 0: not said */
    bool leaving;                       /* it shall, when the others can do without it (recover_drain) */
    bool held;                          /* it outlived a coordinator, and has its incarnation of that */
    uint8_t address[MSG_ADDRESS_BYTES]; /* of its fabric */
    size_t address_bytes;
    char door[MSG_DOOR_BYTES];          /* of its mover; "": none */
    uint64_t moved;                     /* its mover's counter */
    uint64_t done_bytes, total_bytes; /* loading */
    struct worker_ready ready;
    int64_t seen_us;    /* last message */
    uint64_t progress;  /* its engine's counter */
    bool busy;          /* inside a step */
    int owes;           /* plans it has not answered; with these, or busy, progress is owed */
    int64_t moved_us;   /* when its progress changed last, or it became busy; LOADING: when it loaded something */
    uint64_t accuses;   /* peers it waits for, since it last moved */
    int64_t accuses_us; /* since when it accuses anybody */
    uint64_t at;        /* where it stands, it said then */
};
struct member_limits {
    int workers, first;   /* ranks there may be; 0 .. first - 1 are awaited before anything begins */
    const char *fabric;   /* what every worker must say; borrowed */
    uint64_t fingerprint; /* of the coordinator's own view of the model */
    int64_t lease_us, loading_us, progress_us;
    int64_t patience_us; /* least time a worker waits for a peer before it accuses it */
};
struct members {
    struct member_limits limits;
    struct member m[MSG_MAX_WORKERS];
    uint64_t awaited;      /* mask of the ranks that must come before anything begins */
    uint32_t incarnations; /* given so far */
    uint32_t earlier;      /* of these, in earlier lives of this cluster; 0: it has none */
    struct {
        char host[MSG_HOST_BYTES];
        uint64_t pid;
        int64_t until_us;
    } seat[MSG_MAX_WORKERS]; /* ranks that are kept for somebody */
    char numeric_class[MSG_CLASS_BYTES]; /* of whoever was ready first, and so of all that come; "": nobody was */
    int64_t patience_us;   /* of the slowest plan that is out */
    int64_t ticked_us;     /* 0 = never */
};

void member_init(struct members *ms, const struct member_limits *l);
/* 0: it may join. ERR_DENIED with what was said and what was wanted: refuse it, the members are unchanged. */
int member_hello(struct members *ms, const struct worker_hello *h, int64_t now_us, struct why *why);
int member_host(const struct members *ms, int rank); /* its host's index: hosts count from 0 by their first rank */
void member_welcomed(struct members *ms, int rank, int64_t now_us);
void member_load(struct members *ms, int rank, uint64_t done_bytes, uint64_t total_bytes, int64_t now_us);
uint32_t member_load_percent(const struct member *m); /* 0 .. 100 */
int member_ready(struct members *ms, int rank, const struct worker_ready *r, int64_t now_us,
                 struct why *why);                              /* as member_hello */
void member_seen(struct members *ms, int rank, int64_t now_us); /* any other message */
void member_beat(struct members *ms, int rank, uint64_t progress, bool busy, int64_t now_us);
void member_planned(struct members *ms, int rank, int64_t now_us); /* a plan went out to it: it owes an answer */
void member_done(struct members *ms, int rank, int64_t now_us);    /* it answered one */
/* A place in a worker's work: a call within a step. Of two workers the one at the later place has sent all that the other, at
 * the earlier one, can be waiting for. */
static inline uint64_t member_at(uint64_t step, uint32_t call) { return step << 16 | (call < 0xffff ? call : 0xffff); }
/* It waits for the peers in late, standing at that place (0: not known). */
void member_accuse(struct members *ms, int rank, uint64_t late, uint64_t at, int64_t now_us);
/* The plans that were out are void: nobody owes progress for them, and whom they waited for is forgotten. */
void member_anew(struct members *ms, int64_t now_us);
void member_patience(struct members *ms, int64_t patience_us); /* that the plans now out give their workers */
void member_gone(struct members *ms, int rank, bool in_order); /* -> LEFT or DEAD; harmless when it is that already */

/* Looks at all deadlines. The rank of a worker that is dead now, with the reason; call again until -1. */
int member_tick(struct members *ms, int64_t now_us, struct why *why);

/* When member_tick has something to say at the latest, if nothing comes until then. */
int64_t member_next_us(const struct members *ms);

/* DEAD or LEFT -> EXPECTED: whoever comes with this rank now is another process. */
void member_forget(struct members *ms, int rank);

/* A free rank below `end` for one that asks, kept for it until it says Hello or some seconds have passed; who asks is host and
 * pid. Those that nobody had come before those of workers that left; of dead ones successors may be on their way. -1: none. */
int member_seat(struct members *ms, const char *host, uint64_t pid, int end, int64_t now_us);

/* The rank of a worker that is EXPECTED again, with the reason; call after member_tick, again until -1. */
int member_release(struct members *ms, int64_t now_us, struct why *why);

int member_count(const struct members *ms, enum worker_state s);
bool member_alive(const struct members *ms, int rank);                                  /* CONNECTED .. SUSPECT */
bool member_serves(const struct members *ms, int rank);                                 /* READY or SUSPECT */
bool member_all_ready(const struct members *ms);                                        /* the first do */
void member_list(const struct members *ms, enum worker_state s, char *buf, size_t cap); /* "1, 3"; of the first */
