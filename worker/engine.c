/* engine.c - the engine thread and the two rings through which the control thread reaches it. */
#include "base/log.h"
#include "worker/engine_parts.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    REST_MS = 5,  /* between two looks at frames that a peer does not take */
    NEWS_MS = 100 /* at the transport, when it has news of a step to come and so cannot say that there are others */
};

/* --- the two rings --- */

int engine_new(const struct engine_options *o, struct engine **out) {
    struct engine *e = calloc(1, sizeof *e);
    if (!e) return ERR_NOMEM;
    e->options = *o;
    e->options.fabric = NULL;
    e->load.stop = &e->stop;
    e->plan_bell.fd = e->event_bell.fd = -1;
    if (ring_init(&e->plan_free, sizeof(void *), PLANS) < 0 ||
        ring_init(&e->order_in, sizeof(struct order), PLANS + ORDERS) < 0 ||
        ring_init(&e->report_free, sizeof(void *), REPORTS) < 0 || ring_init(&e->event_out, sizeof(struct event), 64) < 0 ||
        bell_open(&e->plan_bell) < 0 || bell_open(&e->event_bell) < 0) {
        engine_free(e);
        return ERR_NOMEM;
    }
    for (int i = 0; i < PLANS; i++) {
        struct plan *p = &e->plans[i];
        arena_init(&p->arena, 1 << 16);
        ring_push(&e->plan_free, &p);
    }
    for (int i = 0; i < REPORTS; i++) {
        struct step_report *r = &e->reports[i];
        ring_push(&e->report_free, &r);
    }
    e->options.fabric = o->fabric;
    *out = e;
    return 0;
}

static void drop_order(struct order *o) {
    if (o->epoch) worker_setup_clear(o->epoch);
    free(o->epoch);
}

void engine_free(struct engine *e) {
    if (!e) return;
    worker_setup_clear(&e->setup); /* of an engine whose thread did not start */
    ep_free(e->ep);                /* not with the thread: engine_prepare tells it of epochs until the end */
    fabric_close(e->options.fabric);
    for (struct order o; e->order_in.data && ring_pop(&e->order_in, &o);) drop_order(&o);
    for (int i = 0; i < PLANS; i++) arena_clear(&e->plans[i].arena);
    for (int i = 0; i < REPORTS; i++) {
        free(e->reports[i].out);
        free(e->reports[i].rows);
    }
    trace_clear(&e->trace);
    tally_clear(&e->tally);
    ring_clear(&e->plan_free);
    ring_clear(&e->order_in);
    ring_clear(&e->report_free);
    ring_clear(&e->event_out);
    bell_close(&e->plan_bell);
    bell_close(&e->event_bell);
    free(e);
}

struct plan *engine_plan_take(struct engine *e) {
    struct plan *p;
    if (!ring_pop(&e->plan_free, &p)) return NULL;
    struct arena arena = p->arena;
    arena_reset(&arena);
    *p = (struct plan){.arena = arena};
    return p;
}

void engine_plan_push(struct engine *e, struct plan *p) {
    ring_push(&e->order_in, &(struct order){.plan = p});
    bell_ring(&e->plan_bell);
}

static int push_order(struct engine *e, struct order o) {
    if (ring_len(&e->order_in) >= ORDERS) { /* the rest is for plans */
        drop_order(&o);
        return ERR_EXHAUSTED;
    }
    ring_push(&e->order_in, &o);
    bell_ring(&e->plan_bell);
    return 0;
}

int engine_prepare(struct engine *e, struct worker_setup *s) {
    struct worker_setup *copy = malloc(sizeof *copy);
    if (!copy) {
        worker_setup_clear(s);
        return ERR_NOMEM;
    }
    *copy = *s;
    *s = (struct worker_setup){0};
    if (copy->epoch > atomic_load(&e->told)) atomic_store(&e->told, copy->epoch);
    if (e->ep) ep_tell_epoch(e->ep, copy->epoch);
    return push_order(e, (struct order){.epoch = copy});
}

int engine_switch(struct engine *e, uint32_t epoch) { return push_order(e, (struct order){.begins = epoch}); }

bool engine_event_pop(struct engine *e, struct event *out) { return ring_pop(&e->event_out, out); }
void engine_trace_done(struct engine *e, struct trace_block *b) { trace_give_back(&e->trace, b); }
const struct tally *engine_tally(const struct engine *e) { return &e->tally; }
void engine_report_done(struct engine *e, struct step_report *r) {
    ring_push(&e->report_free, &r);
    bell_ring(&e->plan_bell);
}
int engine_event_fd(struct engine *e) { return e->event_bell.fd; }
void engine_event_clear(struct engine *e) { bell_clear(&e->event_bell); }

uint64_t engine_progress(const struct engine *e, bool *busy) {
    *busy = atomic_load_explicit(&e->busy, memory_order_relaxed);
    return atomic_load_explicit(&e->progress, memory_order_relaxed);
}

uint64_t engine_strangers(const struct engine *e) {
    struct fabric *f = e->options.fabric;
    return f ? atomic_load_explicit(&f->refused, memory_order_relaxed) : 0;
}

void engine_load_state(const struct engine *e, uint64_t *done_bytes, uint64_t *total_bytes) {
    *done_bytes = atomic_load_explicit(&e->load.done, memory_order_relaxed);
    *total_bytes = atomic_load_explicit(&e->load.total, memory_order_relaxed);
}

void engine_emit(struct engine *e, const struct event *ev) {
    if (!ring_push(&e->event_out, ev))
        log_error("the control thread does not take events; one of kind %d is lost", (int)ev->kind);
    bell_ring(&e->event_bell);
}

/* --- the thread --- */

/* Until there is an order, perhaps. The transport is served meanwhile: what strangers leave at its door, half-made connections
 * above all, would stay there until the next step. */
static void idle(struct engine *e) {
    struct fabric *f = e->options.fabric;
    struct pollfd fd[2] = {{.fd = e->plan_bell.fd, .events = POLLIN}};
    int n = 1, ms = moe_idle(&e->moe) ? REST_MS : 1000;
    if (ms > REST_MS && f && f->fd >= 0) {
        fabric_poll(f);
        if (fabric_arm(f)) ms = NEWS_MS; /* of a step to come */
        else fd[n++] = (struct pollfd){.fd = f->fd, .events = POLLIN};
    }
    poll(fd, (nfds_t)n, ms);
    bell_clear(&e->plan_bell);
}

static int serve(struct engine *e, struct why *why) {
    while (!atomic_load(&e->stop)) {
        struct order o;
        if (!ring_pop(&e->order_in, &o)) {
            idle(e);
            continue;
        }
        atomic_store(&e->busy, o.plan != NULL);
        int rc = o.plan    ? engine_run(e, o.plan, why)
                 : o.epoch ? engine_prepare_epoch(e, o.epoch, why)
                           : engine_switch_epoch(e, o.begins, why);
        atomic_fetch_add(&e->progress, 1);
        atomic_store(&e->busy, false);
        if (o.plan) ring_push(&e->plan_free, &o.plan);
        drop_order(&o);
        if (rc == ERR_CANCELLED) return 0;
        if (rc < 0) return rc;
    }
    return 0;
}

static void *engine_main(void *arg) {
    struct engine *e = arg;
    struct event failed = {.kind = EVENT_FAILED};
    char name[16];
    snprintf(name, sizeof name, "worker %d", e->options.rank);
    log_set_name(name); /* its lines are the worker's, whichever thread says them */
    snprintf(name, sizeof name, "engine %d", e->options.rank);
    pthread_setname_np(pthread_self(), name);
    int rc = engine_load(e, &failed.failed);
    if (rc >= 0) {
        e->epoch = e->setup.epoch;
        atomic_store(&e->told, e->epoch);
        engine_report_ready(e);
        rc = serve(e, &failed.failed);
    }
    engine_unload(e);
    if (rc < 0 && !atomic_load(&e->stop)) engine_emit(e, &failed);
    return NULL;
}

int engine_start(struct engine *e, struct worker_setup *setup) {
    engine_take_setup(e, setup);
    if (pthread_create(&e->thread, NULL, engine_main, e)) return ERR_NOMEM;
    e->running = true;
    return 0;
}

void engine_stop(struct engine *e) {
    atomic_store(&e->stop, true);
    bell_ring(&e->plan_bell);
}

void engine_join(struct engine *e) {
    if (e->running) pthread_join(e->thread, NULL);
    e->running = false;
}
