/* recover.h - the service goes on when workers die, and with those that come back.
 *
 *   SERVING --a death, or a newcomer is ready--> RECOVERING --all members have prepared the epoch--> SERVING
 *                                                 |      ^
 *                                                 +------+ another death; who is left cannot hold the model: requests wait
 *
 * Plans that are out are void (scheduler_void). The survivors, and newcomers that are ready, are a new epoch with a placement
 * over them (planner_members); they are told (Epoch), each stops, loads what it lacks and says so (Prepared), and when all
 * have, plans go on (Switch). What a report or a token of an older epoch says is not heard any more, so a step counts only when
 * all its homes reported in its own epoch.
 * A newcomer has the rank of one that died. It loads while the others serve, and is taken in once the present epoch has
 * completed a step. Workers that stand and fall together (options.world) are all newcomers after a death, and an epoch has all
 * of them or none; so it is until the first token of each is there (prove.h).
 * Owner: the coordinator's loop; c->recovery is this file's. */
#pragma once
#include "coordinator/epoch.h"
#include "coordinator/msg.h"
#include "router/placement.h"

struct coordinator;
struct event;
struct recovery {
    struct epochs epochs;
    uint64_t room[MSG_MAX_WORKERS]; /* planner.h, where somebody's memory is limited */
    uint64_t *first, *next_hosts; /* [layers * experts] the map of the start; of epochs.next */
    uint64_t *held_by;            /* the same: what is told of who could give a copy */
    struct blob_count blobs[BLOB_PLACES]; /* loaded for epochs.next so far: the sums, and the longest time */
    struct placement next;        /* the same as next_hosts */
    uint64_t available;           /* bytes on the one host of all workers before they loaded; 0: not known */
    bool due;                     /* an epoch is to be opened in this pass */
    bool stepped;                 /* a step of this epoch has committed */
    bool waits;                   /* the survivors cannot hold the model, or there are none */
    struct why why;               /* who died last, or why they cannot */
    int64_t silent_us, lost_us, opened_us, begun_us, stepped_us; /* of the first death since all answers went on; 0: none */
    uint64_t replaced;            /* who died while the cluster loaded: the others know the dead, not who came instead */
    int64_t committed_us;         /* when a step did last; 0: none has */
    uint64_t void_step;           /* the last one that was */
    struct recovery_report report;
    char without_one[sizeof(struct why)];
};

int recover_init(struct coordinator *c); /* after the placement is made; ERR_NOMEM */
void recover_clear(struct coordinator *c);
void recover_start(struct coordinator *c); /* all are ready: the first epoch */
void recover_replaced(struct coordinator *c); /* and begins another, if some came late */

/* A worker died or left, members say so already. While the cluster loads another may come in its place, until the start's time
 * is up. False: there is no going on. */
bool recover_lost(struct coordinator *c, int rank, const struct why *why);
void recover_prepared(struct coordinator *c, int rank, const struct worker_msg *m);
/* Where what was loaded came from, as figures. */
void recover_tell_blobs(struct event *e, const struct blob_count *blobs);
void recover_committed(struct coordinator *c); /* a step did */
void recover_tick(struct coordinator *c);

/* A worker is to leave: its sequences go on elsewhere, the others hold its experts, and then it is sent home. 0: that has
 * begun. ERR_NOT_FOUND: there is none; ERR_UNSUPPORTED: nobody can; ERR_AGAIN: not now; ERR_EXHAUSTED: the others cannot hold
 * the model. */
int recover_drain(struct coordinator *c, int rank, struct why *why);

/* What a newcomer of this rank shall hold, into hosts [layers * experts]. */
void recover_share(const struct coordinator *c, int rank, uint64_t *hosts);
/* Could any R - 1 of the workers hold the model? 0, or why not. */
int recover_fits(const struct coordinator *c, struct why *why);
