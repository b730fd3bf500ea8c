/* events.h - what happened to the cluster lately: a bounded ring that `cadre events` shows. Pure but for memory it has from the
 * start, so whoever has something to tell can tell it anywhere in the loop.
 *
 * A new event is a line in EVENT_KINDS (and in docs/OPERATIONS.md) and, where it happens,
 *
 *     struct event *e = core_event(c, EVENT_EPOCH_BEGUN, -1, "epoch %u: workers %s", number, ranks);
 *     event_figure(e, "reload_us", us);
 *
 * Events are for what an operator may want to hear of days later, not for single requests or steps: EVENTS_KEPT of them are
 * kept, the oldest go first. What is said again at once counts as one (`times`), so a process that knocks in vain for hours
 * pushes nothing out. Owner: the coordinator's loop. */
#pragma once
#include <stdarg.h>
#include <stdint.h>

enum { EVENTS_KEPT = 1024, EVENT_TEXT_BYTES = 512, EVENT_FIGURES = 11 };

#define EVENT_KINDS(X)                                                                                                         \
    X(STARTED, "started")                                                                                                      \
    X(RECALLED, "recalled")                                                                                                    \
    X(WORKER_KEPT, "worker-kept")                                                                                              \
    X(STATE, "state")                                                                                                          \
    X(WORKER_HERE, "worker-here")                                                                                              \
    X(WORKER_READY, "worker-ready")                                                                                            \
    X(WORKER_REFUSED, "worker-refused")                                                                                        \
    X(WORKER_SUSPECT, "worker-suspect")                                                                                        \
    X(WORKER_BACK, "worker-back")                                                                                              \
    X(WORKER_DEAD, "worker-dead")                                                                                              \
    X(WORKER_LEAVES, "worker-leaves")                                                                                          \
    X(WORKER_LEFT, "worker-left")                                                                                              \
    X(EPOCH_OPENED, "epoch-opened")                                                                                            \
    X(EPOCH_BEGUN, "epoch-begun")                                                                                              \
    X(RECOVERED, "recovered")                                                                                                  \
    X(WAITING, "waiting")                                                                                                      \
    X(JOURNAL_FAILED, "journal-failed")                                                                                        \
    X(JOURNAL_WRITTEN, "journal-written")                                                                                      \
    X(HEALTH, "health")

enum event_kind {
#define X(name, text) EVENT_##name,
    EVENT_KINDS(X)
#undef X
        EVENT_KIND_COUNT
};
const char *event_kind_name(enum event_kind k); /* as in ClusterEvent */

struct event_figure {
    const char *name; /* static; its unit at its end */
    uint64_t value;
};
struct event {
    uint64_t number; /* from 1 */
    int64_t unix_us; /* of the first time */
    enum event_kind kind;
    int rank; /* -1: of no worker */
    uint32_t times;
    int n_figures;
    struct event_figure figure[EVENT_FIGURES];
    char text[EVENT_TEXT_BYTES];
};
struct events { /* zeroed: empty */
    uint64_t added;
    struct event ring[EVENTS_KEPT];
};

/* The event, for its figures; never NULL. */
struct event *events_add(struct events *es, int64_t unix_us, enum event_kind kind, int rank, const char *fmt, va_list ap);
void event_figure(struct event *e, const char *name, int64_t value); /* below 0 counts as 0; beyond EVENT_FIGURES: left out */
/* The oldest that is kept and has a higher number than `after`; NULL: none. */
const struct event *events_after(const struct events *es, uint64_t after);
