/* links.h - what passes between each pair of workers, and for whom the others wait. Pure.
 *
 * Sums come from the workers' own counters: bytes and frames as the sender counted them, waits as the receiver felt them. Who
 * is slow is judged by the last steps alone: waits and times in steps halve every LINKS_HALF_LIFE_US. */
#pragma once
#include "base/status.h"
#include "coordinator/msg.h"

enum { LINKS_HALF_LIFE_US = 3000000 };

struct links {
    int workers;
    struct link_count *count; /* [w * workers + peer]: what worker w counted of its exchange with peer, since it started */
    uint64_t *wait_us;        /* the same: how long w stood waiting for peer */
    double *recent_us;        /* the same, lately */
    double recent_busy_us[MSG_MAX_WORKERS]; /* in steps, lately */
    struct far_count far[MSG_MAX_WORKERS];  /* what w counted of its exchange with other hosts, since it started */
    struct task_count tasks[MSG_MAX_WORKERS];
    int64_t aged_us;          /* when the last halving was accounted for */
};
int links_init(struct links *l, int workers);
void links_clear(struct links *l);
/* What a worker counted; n must be the number of workers. ERR_PROTOCOL */
int links_count(struct links *l, int rank, const struct link_count *count, int n, const struct task_count *tasks,
                struct why *why);
void links_step(struct links *l, int rank, const struct worker_step_done *d, int64_t now_us);

/* How many messages w had needed from peer, and a bound in us for the q-th part of its waits for them: 0 means less than 1. */
uint64_t links_waits(const struct link_count *c);
uint64_t links_quantile_us(const struct link_count *c, double q);
/* The worker that holds the others up, or -1 when none stands out: lately every one of them stood waiting for it during *share
 * of its time in steps or longer, at least a quarter, and for nobody else half as long. */
int links_slowest(const struct links *l, double *share);
