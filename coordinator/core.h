/* core.h - the coordinator's inside, shared by its own files only: coordinator.c (life and loop), cluster.c, welcome.c, room.c
 * and steps.c (the workers' side), service.c (the clients' side), report.c (Status, Experts and Links). Everything belongs to
 * the loop's thread. */
#pragma once
#include <stdatomic.h>

#include "coordinator/client_port.h"
#include "coordinator/coordinator.h"
#include "coordinator/events.h"
#include "coordinator/journal.h"
#include "coordinator/health.h"
#include "coordinator/held.h"
#include "coordinator/hops.h"
#include "coordinator/links.h"
#include "coordinator/member.h"
#include "coordinator/overlap.h"
#include "coordinator/planner.h"
#include "coordinator/prepare.h"
#include "coordinator/prove.h"
#include "coordinator/recover.h"
#include "coordinator/scheduler.h"
#include "coordinator/telemetry.h"
#include "coordinator/tracing.h"
#include "coordinator/worker_port.h"
#include "model/checkpoint.h"
#include "proto/call.h"
#include "worker/measure.h"

enum core_state {
    CORE_LOADING,
    CORE_PROVING,
    CORE_SERVING,
    CORE_RECOVERING,
    CORE_DRAINING,
    CORE_LEAVING,
    CORE_FAILED,
    CORE_ENDED,
    CORE_STATES
};

enum request_kind { REQUEST_GENERATE, REQUEST_TOKENIZE };
/* From Open to End, and while its job is with the tokeniser. Ownership: in core.requests; freed by request_free only. */
struct request {
    struct list node;
    enum request_kind kind;
    struct call *call;       /* NULL: the client is gone, for good unless `kept` */
    struct prepare_job *job; /* not NULL: inside the tokeniser, which may touch it */
    struct seq *seq;         /* while the scheduler has it */
    struct stream *stream;
    struct sampling sampling;
    int32_t stop_ids[32];
    int n_stop_ids, priority, domain;
    uint32_t max_tokens;
    bool has_max_tokens, allow_degraded;
    uint64_t number;
    char tenant[65];
    bool resumable; /* asked for */
    /* recall.h. kept: the journal has it, so it may be without a call; its stream has all of the answer then */
    bool kept, ended; /* ended: its end was told once, and counted */
    uint8_t id[JOURNAL_ID_BYTES];
    uint64_t accept_record;           /* not yet written; 0: it is */
    int64_t detached_us, deadline_us; /* deadline 0: none */
    bool started;                     /* Started was sent */
    bool finished;                    /* no token follows; `end` holds what Finished says */
    int64_t finished_us;
    struct generate_finished end;
};

struct core_counts {                               /* of Generate calls; every one that ended is in exactly one of them */
    uint64_t finished, cancelled, expired, failed; /* cancelled: by the client, or it is gone; expired: its deadline */
};

struct core_watches { /* health_check.c */
    struct health_watch scheduler, tokenizer, telemetry[MSG_MAX_WORKERS], mover[MSG_MAX_WORKERS];
    uint64_t prompts, prompts_done;       /* given to the tokeniser; back from it */
    uint64_t counts[MSG_MAX_WORKERS];     /* messages of a worker with its counts */
    uint64_t counted_at[MSG_MAX_WORKERS]; /* steps committed when the last one came */
    int64_t looked_us;
};

struct steps { /* steps.c */
    struct overlap overlap;
    struct hops hops;
    uint64_t sent[2]; /* plans that count, of one and of two hops */
    struct step_given {
        struct telemetry_of_step step;
        int microbatches;
        int64_t patience_us;
    } given[SCHEDULER_MAX_AHEAD]; /* by step, modulo: of plans that may be out */
};

struct coordinator {
    struct coordinator_options options;
    enum core_state state;
    struct why why;                         /* FAILED: the reason */
    int result;                             /* of coordinator_run */
    int64_t now_us, started_us, drained_us; /* drained: when the last answer was complete, 0 = not yet */

    /* the model */
    char *model_name;
    struct checkpoint checkpoint;
    struct tokenizer *tokenizer;       /* NULL with ids_only */
    struct chat_template *chat;        /* NULL: the checkpoint has none */
    int model_layer[MODEL_MAX_LAYERS]; /* MoE layer -> layer */
    struct planner_shape shape;
    uint64_t *hosts;
    struct placement placement;
    char missing[200]; /* what requests wait for when experts are missing; "" when none is */
    enum fmt weights, kv;

    /* workers */
    struct bus *worker_bus;
    struct worker_port *worker_port;
    struct members members;
    struct bus_id worker_id[MSG_MAX_WORKERS];
    struct scheduler scheduler;
    struct telemetry telemetry;
    struct steps steps;
    struct links links;
    struct domains domains;
    struct tracing tracing;
    uint32_t epoch; /* in which steps run, or ran last */
    struct recovery recovery;
    struct proof proof;
    struct held held;
    int64_t missing_said_us, shutdown_said_us, busy_said_us, leave_by_us, swept_us;
    uint64_t suspects;                /* mask, as last logged */
    uint64_t broken;                  /* connections of workers' bus that have ended; below: until when we look whose it was */
    int64_t probe_us, probe_until_us; /* the next look */
    uint64_t noise;                   /* messages from nobody we know */
    uint64_t strangers, strangers_of[MSG_MAX_WORKERS]; /* messages their fabrics refused: in all; as each said last */

    /* clients */
    struct bus *client_bus;
    struct client_port *client_port;
    struct call_server *calls;
    struct prepare *prepare; /* NULL with ids_only */
    struct list requests;
    int n_requests;
    struct health health;
    struct core_watches watches;
    struct events events;
    struct list readers; /* events_service.c: clients that read them */
    int n_readers;
    bool journal_failed; /* as told by the last event */
    struct core_counts counts;
    struct journal *journal;              /* NULL: none */
    struct why journal_fault;             /* as told by the last Status */
    char recalled_class[MSG_CLASS_BYTES]; /* of the tokens that were found in it */
    uint32_t set_aside;                   /* the last incarnation that the next life will not give */
    int64_t recalled_us;                  /* when their clients may be expected back */
    int n_held;                           /* requests that wait for the journal */

    bool moved;      /* something was received or sent in this pass */
    atomic_int stop; /* 0, 1 drain, 2 now */
    struct bell bell;
};

/* Mask of the ranks it begins with. */
static inline uint64_t core_first(const struct coordinator *c) { return UINT64_MAX >> (64 - c->options.first); }
void core_set_state(struct coordinator *c, enum core_state to);         /* the only place where it changes */
void core_serve(struct coordinator *c);                                 /* -> SERVING, for the first time */
void core_fail(struct coordinator *c, int code, const struct why *why); /* -> FAILED, once; everybody is told */

/* cluster.c */
void cluster_receive(struct coordinator *c); /* all messages of workers, committed tokens to their streams */
void cluster_tick(struct coordinator *c);    /* deadlines, missing workers, leaving */
/* peers[workers], those outside the mask without incarnation. */
void cluster_peers(const struct coordinator *c, uint64_t mask, struct worker_peer *peers);
void cluster_count_hosts(struct coordinator *c, uint64_t mask); /* of these workers: whether there is anything to hop over */
/* Who has what and may be asked for a copy, as workers are told; NULL: nobody. Until the next call. */
const uint64_t *cluster_holders(struct coordinator *c);
void cluster_lose(struct coordinator *c, int rank, const struct why *why); /* it is dead */
/* It is dead, or said what cannot be: none of it is believed any more, and it is told so when it is heard of again. */
void cluster_condemn(struct coordinator *c, int rank, int rc, const struct why *why);
/* Sending to it failed: it is gone, or takes nothing any more, which for a worker is the same. */
void cluster_unreachable(struct coordinator *c, int rank, int rc);
void cluster_probe(struct coordinator *c, int rank); /* is its connection still there? */
void cluster_shutdown(struct coordinator *c, bool abort, const char *reason);

/* welcome.c */
void welcome_hello(struct coordinator *c, const struct bus_id *id, const struct worker_hello *h);
void welcome_seat(struct coordinator *c, const struct bus_id *id, const struct worker_hello *h);
void welcome_ready(struct coordinator *c, int rank, const struct worker_ready *r);
void welcome_all(struct coordinator *c);  /* those that are awaited are here: they are told what to load */
void welcome_tick(struct coordinator *c); /* who is missing, or late */

/* room.c */
/* What the members will need with experts placed so, against options.memory and, unless 0, against what is available on the one
 * host they share. */
int room_check(const struct coordinator *c, const struct scheduler_limits *l, const uint64_t *hosts, uint64_t members,
               uint64_t available, struct why *why);
int room_find(struct coordinator *c, struct why *why); /* c->shape.room, by what members said of their memory */
uint64_t room_available(const struct coordinator *c);  /* bytes on the one host of those awaited; 0: several, or unknown */

/* steps.c */
void steps_plan(struct coordinator *c);                                             /* sends what the scheduler wants to run */
void steps_done(struct coordinator *c, int rank, const struct worker_step_done *d); /* a report; may commit steps */

/* service.c */
extern const struct call_method service_methods[];
enum { SERVICE_METHODS = 9 };
void service_prepared(struct coordinator *c); /* what the tokeniser has finished */
void service_committed(struct coordinator *c, const struct commit *commit);
void service_tick(struct coordinator *c); /* answers that nobody reads */
void service_end_all(struct coordinator *c, int status, const char *reason);
void service_end_held(struct coordinator *c); /* requests that wait for missing experts: a cluster that drains gets none back */
bool service_owed(const struct coordinator *c); /* somebody has an answer to read */
bool service_idle(const struct coordinator *c); /* no request left that owes its client anything but a read */

/* service.c, for recall.c */
struct request *service_new_request(struct coordinator *c, enum request_kind kind, struct call *call); /* call may be NULL */
void service_free_request(struct coordinator *c, struct request *r);
void service_end_request(struct coordinator *c, struct request *r, int status, const char *message); /* may free r */
void service_flush_request(struct coordinator *c, struct request *r);                                /* may free r */

/* trace_service.c */
void trace_service_open(void *ctx, struct call *call, const uint8_t *payload, size_t len);
void trace_service_credit(void *ctx, struct call *call);
void trace_service_gone(void *ctx, struct call *call, int status);
void trace_service_flush(struct coordinator *c); /* sends what there is, as far as credits go */
void trace_service_end(struct coordinator *c, int status, const char *reason);

/* events_service.c. core_event: see events.h. */
struct event *core_event(struct coordinator *c, enum event_kind kind, int rank, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void events_service_open(void *ctx, struct call *call, const uint8_t *payload, size_t len);
void events_service_credit(void *ctx, struct call *call);
void events_service_gone(void *ctx, struct call *call, int status);
void events_service_flush(struct coordinator *c);
void events_service_end(struct coordinator *c, int status, const char *reason); /* of all readers, after what is there */

/* health_check.c */
void health_check(struct coordinator *c); /* c->health is true afterwards; what changed is told */

/* report.c */
const uint8_t *report_status(struct coordinator *c, size_t *len);
const uint8_t *report_experts(struct coordinator *c, size_t *len);
const uint8_t *report_links(struct coordinator *c, size_t *len);
void report_busy(struct coordinator *c);    /* the line every ten seconds */
void report_serving(struct coordinator *c); /* the lines when all workers are ready */
