/* room.c - the workers' memory: what they must have for the model, and for how many experts of their own each has room. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/cgroup.h"
#include "coordinator/core.h"
#include "coordinator/fit.h"

static bool all_local(const struct coordinator *c) {
    char host[MSG_HOST_BYTES] = "";
    gethostname(host, sizeof host - 1);
    for (int w = 0; w < c->options.workers; w++)
        if (c->members.awaited >> w & 1 && strcmp(c->members.m[w].host, host)) return false;
    return true;
}

uint64_t room_available(const struct coordinator *c) {
    char line[128];
    unsigned long long kib = 0;
    FILE *f = all_local(c) ? fopen("/proc/meminfo", "re") : NULL;
    if (!f) return 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    fclose(f);
    const uint64_t left = cgroup_room("/proc/self/cgroup", "/sys/fs/cgroup"); /* serve's workers are in the same */
    return left >= kib * 1024 ? kib * 1024 : left ? left : 1; /* 0 would say that it is not known */
}

static struct measure measure_for(const struct coordinator *c, const struct scheduler_limits *l) {
    return (struct measure){.checkpoint = &c->checkpoint,
                            .weights = c->weights,
                            .kv = c->kv,
                            .workers = c->options.workers,
                            .step_tokens = l->step_tokens,
                            .max_seqs = l->max_seqs,
                            .max_context = l->max_context,
                            .page_tokens = l->page_tokens,
                            .kv_pages = l->pages,
                            .hosts = c->hosts};
}

static uint64_t memory_of(const struct coordinator *c, int rank) {
    return c->members.m[rank].memory ? c->members.m[rank].memory : c->options.memory;
}

int room_check(const struct coordinator *c, const struct scheduler_limits *l, const uint64_t *hosts, uint64_t members,
               uint64_t available, struct why *why) {
    struct worker_bytes bytes[MSG_MAX_WORKERS] = {0};
    struct measure m = measure_for(c, l);
    m.hosts = hosts;
    for (int w = 0; w < c->options.workers; w++) {
        int rc = members >> w & 1 ? measure_worker(&m, w, &bytes[w], why) : 0;
        if (rc < 0) return rc;
    }
    uint64_t memory[MSG_MAX_WORKERS];
    for (int w = 0; w < c->options.workers; w++) memory[w] = memory_of(c, w);
    return fit_check(bytes, c->options.workers, (struct fit_formats){c->weights, c->kv}, memory, available, why);
}

int room_find(struct coordinator *c, struct why *why) {
    uint64_t *everything = NULL, n = (uint64_t)c->shape.layers * (uint64_t)c->shape.experts, limits = 0;
    struct worker_bytes b = {0};
    struct measure m = measure_for(c, &c->scheduler.limits);
    for (int w = 0; w < c->options.workers; w++) limits |= c->members.m[w].memory;
    c->shape.room = NULL;
    if (!limits || !n) return 0;
    m.hosts = everything = malloc(sizeof *everything * n);
    if (!everything) return fail(why, ERR_NOMEM, "out of memory for a placement");
    for (uint64_t i = 0; i < n; i++) everything[i] = 1;
    int rc = measure_worker(&m, 0, &b, why);
    free(everything);
    if (rc < 0) return rc;
    uint64_t each = (b.experts + n - 1) / n, others = worker_bytes_total(&b) - b.experts;
    for (int w = 0; w < c->options.workers; w++) {
        uint64_t memory = memory_of(c, w);
        c->recovery.room[w] = !memory || memory > others + b.experts ? n : memory > others ? (memory - others) / each : 0;
        if (!c->recovery.room[w]) c->recovery.room[w] = 1; /* what does not fit is said by who checks that */
    }
    c->shape.room = c->recovery.room;
    return 0;
}
