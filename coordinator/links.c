/* links.c - square tables. */
#include "coordinator/links.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double SLOW_SHARE = 0.25, SLOW_FACTOR = 2;

int links_init(struct links *l, int workers) {
    size_t n = (size_t)workers * (size_t)workers;
    *l = (struct links){.workers = workers};
    l->count = calloc(n, sizeof *l->count);
    l->wait_us = calloc(n, sizeof *l->wait_us);
    l->recent_us = calloc(n, sizeof *l->recent_us);
    if (l->count && l->wait_us && l->recent_us) return 0;
    links_clear(l);
    return ERR_NOMEM;
}

void links_clear(struct links *l) {
    free(l->count);
    free(l->wait_us);
    free(l->recent_us);
    *l = (struct links){0};
}

int links_count(struct links *l, int rank, const struct link_count *count, int n, const struct task_count *tasks,
                struct why *why) {
    if (n != l->workers) return fail(why, ERR_PROTOCOL, "counts of %d links; there are %d workers", n, l->workers);
    memcpy(l->count + (size_t)rank * (size_t)n, count, sizeof *count * (size_t)n);
    l->tasks[rank] = *tasks;
    return 0;
}

static void age(struct links *l, int64_t now_us) {
    double keep = exp2(-(double)(now_us - l->aged_us) / LINKS_HALF_LIFE_US);
    l->aged_us = now_us;
    for (int w = 0; w < l->workers; w++) {
        l->recent_busy_us[w] *= keep;
        for (int peer = 0; peer < l->workers; peer++) l->recent_us[w * l->workers + peer] *= keep;
    }
}

void links_step(struct links *l, int rank, const struct worker_step_done *d, int64_t now_us) {
    enum { AGE_EVERY_US = LINKS_HALF_LIFE_US / 20 };
    if (now_us - l->aged_us >= AGE_EVERY_US) age(l, now_us);
    for (int peer = 0; peer < d->n_wait && peer < l->workers; peer++) {
        l->wait_us[rank * l->workers + peer] += d->wait_us[peer];
        l->recent_us[rank * l->workers + peer] += (double)d->wait_us[peer];
    }
    l->recent_busy_us[rank] += (double)d->step_us;
}

uint64_t links_waits(const struct link_count *c) {
    uint64_t n = 0;
    for (int b = 0; b < MSG_WAIT_BUCKETS; b++) n += c->waits[b];
    return n;
}

uint64_t links_quantile_us(const struct link_count *c, double q) {
    double wanted = q * (double)links_waits(c), n = 0;
    for (int b = 0; b < MSG_WAIT_BUCKETS; b++) {
        n += (double)c->waits[b];
        if (n >= wanted) return b ? UINT64_C(1) << b : 0;
    }
    return UINT64_C(1) << MSG_WAIT_BUCKETS;
}

/* The part of their time in steps that all others, even the one that did so least, stood waiting for this one. A slow worker
 * that is itself stopped while it waits seems to wait for others: those that it alone waits for are not slow. */
static double held_up(const struct links *l, int rank) {
    double least = -1;
    for (int w = 0; w < l->workers; w++) {
        if (w == rank || l->recent_busy_us[w] <= 0) continue;
        double part = l->recent_us[w * l->workers + rank] / l->recent_busy_us[w];
        if (least < 0 || part < least) least = part;
    }
    return least > 0 ? least : 0;
}

int links_slowest(const struct links *l, double *share) {
    int slowest = -1;
    double most = 0, second = 0;
    for (int w = 0; w < l->workers; w++) {
        double part = held_up(l, w);
        if (part > most) {
            second = most;
            most = part;
            slowest = w;
        } else if (part > second) {
            second = part;
        }
    }
    *share = most < 1 ? most : 1;
    return most >= SLOW_SHARE && most >= SLOW_FACTOR * second ? slowest : -1;
}
