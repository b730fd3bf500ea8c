/* worker.c - the control loop: bus in, engine events out, a beat every 100 ms. */
#include "worker/worker.h"

#include "base/clk.h"
#include "base/log.h"
#include "worker/mover.h"
#include "worker/port.h"
#include "worker/tally.h"
#include "worker/trace.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BEAT_US = 100000, HELLO_US = 300000, LINKS_US = 1000000 };
enum state { JOINING, LOADING, SERVING, HOLDING, REJOINING, LEAVING };

struct worker {
    struct worker_options options;
    struct bus *bus;
    struct port *port;
    struct engine *engine;
    struct mover *mover; /* NULL: blobs neither go nor come */
    struct bell kill_bell;
    atomic_bool killed;
    enum state state;
    int64_t next_beat_us, join_by_us, next_hello_us;
    uint64_t reported_bytes;
    bool preparing;                     /* an epoch: loading, perhaps */
    uint64_t tally_sent[TRACE_DOMAINS]; /* tokens of each domain whose counts the coordinator has */
    uint32_t trace_lost;                /* rows of records that could not be sent, until the next report of a step */
    bool trace_lost_said;
    uint64_t lost;                         /* breaks of the connection that did not matter */
    struct ep_link link[FABRIC_MAX_RANKS]; /* as the last step's report had them */
    struct ep_far far;                     /* the same */
    struct backend_tasks tasks;            /* the same */
    bool links_grew;                       /* since they were sent */
    int64_t next_links_us;
    struct worker_setup first; /* as it was loaded; placement and peers are the engine's */
    struct ready_report ready; /* the same */
    uint32_t epoch;            /* the latest it was told of */
    uint64_t members;          /* mask of those in it; 0: it has not been told */
    uint64_t step;             /* the last it was given */
    int rows;                  /* of its fullest worker */
    double row_ns;             /* what a row has taken lately; 0: not known */
    int64_t hold_until_us;     /* HOLDING */
    int result;                /* of worker_run once LEAVING */
};

int worker_new(const struct worker_options *o, struct bus *bus, struct worker **out) {
    struct worker *w = calloc(1, sizeof *w);
    if (!w) return ERR_NOMEM;
    w->options = *o;
    w->bus = bus;
    w->kill_bell.fd = -1;
    struct mover_options mo = {.door = o->door, .reach = o->reach, .ctx = o->reach_ctx, .rank = o->engine.rank};
    if (o->reach && mover_open(&mo, &w->mover) >= 0) w->options.engine.mover = w->mover;
    if ((o->reach && !w->mover) || bell_open(&w->kill_bell) < 0 || port_new(bus, &w->port) < 0 ||
        engine_new(&w->options.engine, &w->engine) < 0) {
        worker_free(w);
        return ERR_NOMEM;
    }
    *out = w;
    return 0;
}

void worker_free(struct worker *w) {
    if (!w) return;
    engine_free(w->engine);
    mover_close(w->mover); /* the engine lets go of it first */
    port_free(w->port);
    bell_close(&w->kill_bell);
    free(w);
}

void worker_kill(struct worker *w) {
    atomic_store(&w->killed, true);
    engine_stop(w->engine);
    bell_ring(&w->kill_bell);
}

static int say_hello(struct worker *w) {
    char host[256] = "unknown";
    gethostname(host, sizeof host - 1);
    const struct engine_options *e = &w->options.engine;
    uint8_t address[FABRIC_ADDRESS_BYTES];
    struct port_hello h = {.rank = e->rank,
                           .size = e->workers,
                           .host = host,
                           .host_id = w->options.host_id ? w->options.host_id : host,
                           .fabric = e->fabric_name,
                           .pid = (uint64_t)getpid(),
                           .address = address,
                           .address_bytes = e->fabric ? fabric_address(e->fabric, address) : 0,
                           .door = w->mover ? mover_door(w->mover) : "",
                           .memory = w->options.memory,
                           .held = {w->first.incarnation, w->epoch, w->step, w->members, (uint64_t)w->row_ns}};
    return port_send_hello(w->port, &h);
}

static struct plan *take_plan(void *ctx) { return engine_plan_take(((struct worker *)ctx)->engine); }

static void leave(struct worker *w, int result) {
    w->state = LEAVING;
    w->result = result;
}

static uint64_t members_of(const struct worker_setup *s) {
    uint64_t mask = 0;
    for (int w = 0; w < s->n_peers; w++) mask |= (uint64_t)(s->peers[w].incarnation != 0) << w;
    return mask;
}

/* Who is welcomed alone may be to join others who go on: it is of no epoch before it is told of one. (Where it is alone indeed,
 * nothing hangs on that: there is nobody else to begin with.) */
static uint64_t begun_with(const struct worker_setup *s) {
    const uint64_t members = members_of(s);
    return members & (members - 1) ? members : 0;
}

/* ---- a coordinator that is gone ---- */

static int hold(struct worker *w, struct why *why) {
    if (!w->options.hold_us || (w->state != SERVING && w->state != REJOINING && w->state != HOLDING))
        return fail(why, ERR_GONE, "the connection to the coordinator at %s was lost", bus_endpoint(w->bus));
    if (w->state != HOLDING) {
        log_warn("the coordinator at %s is gone; waiting %.0f s for another", bus_endpoint(w->bus),
                 (double)w->options.hold_us / 1e6);
        w->hold_until_us = clk_now_us() + w->options.hold_us;
    }
    w->state = HOLDING;
    w->preparing = false;
    w->next_hello_us = w->next_beat_us = 0;
    return 0;
}

/* What was loaded stays only if the new one wants the same. */
static const char *difference(const struct worker_setup *was, const struct worker_setup *is) {
    if (strcmp(was->model_dir, is->model_dir)) return "another model";
    if (was->weights != is->weights) return "other weights";
    if (was->kv != is->kv) return "another format of keys and values";
    if (strcmp(was->isa, is->isa) || was->naive_prefill != is->naive_prefill) return "other kernels";
    if (was->payload != is->payload || was->combine_payload != is->combine_payload || was->fused != is->fused)
        return "rows to travel otherwise";
    if (was->step_tokens != is->step_tokens || was->max_seqs != is->max_seqs || was->max_context != is->max_context ||
        was->page_tokens != is->page_tokens || was->kv_pages != is->kv_pages)
        return "other limits";
    return was->incarnation == is->incarnation ? NULL : "another process in this rank";
}

static int rejoin(struct worker *w, struct worker_setup *s, struct why *why) {
    const char *other = difference(&w->first, s);
    if (other || s->epoch <= w->epoch) {
        uint32_t epoch = s->epoch;
        worker_setup_clear(s);
        if (other) return fail(why, ERR_CANCELLED, "the coordinator that came wants %s; start this worker again", other);
        return fail(why, ERR_PROTOCOL, "the coordinator that came begins with epoch %u; this worker has heard of %u", epoch,
                    w->epoch);
    }
    w->state = REJOINING;
    w->preparing = s->rejoins = true;
    w->epoch = s->epoch;
    w->members = begun_with(s);
    memset(w->tally_sent, 0, sizeof w->tally_sent); /* what the old one knew, this one does not */
    int rc = engine_prepare(w->engine, s);
    return rc < 0 ? fail(why, rc, "cannot prepare epoch %u: %s", w->epoch, status_text(rc)) : 0;
}

static int on_welcome(struct worker *w, struct worker_setup *setup, struct why *why) {
    if (w->state != JOINING && w->state != HOLDING) {
        worker_setup_clear(setup);
        return fail(why, ERR_PROTOCOL, "the coordinator welcomed this worker twice");
    }
    if (w->options.model_dir) snprintf(setup->model_dir, sizeof setup->model_dir, "%s", w->options.model_dir);
    if (w->options.isa) snprintf(setup->isa, sizeof setup->isa, "%s", w->options.isa);
    if (w->state == HOLDING) return rejoin(w, setup, why);
    w->state = LOADING;
    w->first = *setup;
    w->first.placement = (struct placement){0};
    w->first.peers = NULL;
    w->first.held_by = NULL;
    w->epoch = setup->epoch;
    w->members = begun_with(setup);
    int rc = engine_start(w->engine, setup);
    return rc < 0 ? fail(why, rc, "cannot start the engine thread: %s", status_text(rc)) : 0;
}

static int on_epoch(struct worker *w, struct worker_setup *s, struct why *why) {
    uint32_t epoch = s->epoch;
    if (w->state != SERVING) {
        worker_setup_clear(s);
        return fail(why, ERR_PROTOCOL, "epoch %u came before this worker was ready", epoch);
    }
    w->preparing = true;
    w->epoch = epoch;
    w->members = members_of(s);
    int rc = engine_prepare(w->engine, s);
    return rc < 0 ? fail(why, rc, "cannot prepare epoch %u: %s", epoch, status_text(rc)) : 0;
}

static int on_plan(struct worker *w, struct plan *plan, struct why *why) {
    if (w->state != SERVING) return fail(why, ERR_PROTOCOL, "a plan came before this worker was ready");
    if (plan->step > w->step) w->step = plan->step;
    w->rows = 0;
    for (int i = 0; i < plan->workers; i++)
        if (plan->tokens[i] > w->rows) w->rows = plan->tokens[i];
    engine_plan_push(w->engine, plan);
    return 0;
}

static int on_message(struct worker *w, struct port_message *m, struct plan *plan, struct why *why) {
    switch (m->kind) {
    case PORT_WELCOME: return on_welcome(w, &m->setup, why);
    case PORT_REFUSE: /* one that had joined may come again, as another process */
        return fail(why, w->state == JOINING ? ERR_DENIED : ERR_CANCELLED, "the coordinator refuses this worker: %s",
                    m->reason);
    case PORT_PLAN: return on_plan(w, plan, why);
    case PORT_EPOCH: return on_epoch(w, &m->setup, why);
    case PORT_SWITCH:
        if (w->state != SERVING || engine_switch(w->engine, m->epoch) < 0)
            return fail(why, ERR_PROTOCOL, "epoch %u begins before this worker was told of it", m->epoch);
        return 0;
    case PORT_SHUTDOWN:
        if (m->abort) return fail(why, ERR_CANCELLED, "the coordinator ends this cluster: %s", m->reason);
        leave(w, 0);
        return 0;
    case PORT_SEATED: /* said twice */
    case PORT_NONE: return 0;
    }
    BUG("port message of kind %d", (int)m->kind);
}

static int drain_bus(struct worker *w, struct why *why) {
    while (w->state != LEAVING) {
        struct port_message m;
        struct plan *plan = NULL;
        int rc = port_recv(w->port, &m, take_plan, w, &plan, why);
        if (rc == ERR_AGAIN) return 0;
        if (rc >= 0) rc = on_message(w, &m, plan, why);
        if (rc < 0) return rc;
    }
    return 0;
}

/* To the coordinator whoever connects again is a stranger, so a member whose connection broke is none any more. What the
 * coordinator said before it went is taken first: it may have been an orderly end. */
static int receive(struct worker *w, struct why *why) {
    struct bus_link link;
    bus_get_link(w->bus, &link);
    bool member = w->state != JOINING;
    int rc = drain_bus(w, why);
    if (rc >= 0 && member && w->state != LEAVING && link.lost != w->lost) rc = hold(w, why);
    w->lost = link.lost;
    return rc;
}

static int sent(int rc, const char *what, struct why *why) {
    return rc < 0 ? fail(why, rc, "cannot send %s to the coordinator: %s", what, status_text(rc)) : 0;
}

/* Serving does not depend on recording: a record that cannot be sent is lost and counted, and said once. */
static void send_trace(struct worker *w, struct trace_block *b) {
    int rc = b->len ? port_send_trace(w->port, b->bytes, b->len) : 0; /* 0: of a step that was given up */
    if (rc < 0) {
        w->trace_lost += b->rows;
        if (!w->trace_lost_said) log_warn("cannot send a record of routing: %s; such records are lost", status_text(rc));
        w->trace_lost_said = true;
    }
    engine_trace_done(w->engine, b);
}

static int on_prepared(struct worker *w, const struct prepared_report *r, struct why *why) {
    w->preparing = false;
    for (int k = 0; k < SOURCES; k++) source_count_add(&w->ready.source[k], &r->source[k]);
    if (w->state == SERVING) return sent(port_send_prepared(w->port, r), "that an epoch is prepared", why);
    if (w->state != REJOINING || r->epoch != w->epoch) return 0; /* of a coordinator that is gone */
    w->state = SERVING;
    w->ready.bytes = r->bytes;
    w->ready.slots = r->slots;
    return sent(port_send_ready(w->port, &w->ready, r->held, r->n_held), "what was kept", why);
}

/* What the engine still says to a coordinator that is gone. */
static void drop_event(struct worker *w, const struct event *ev) {
    if (ev->kind == EVENT_TRACE) engine_trace_done(w->engine, ev->trace);
    if (ev->kind == EVENT_STEP) engine_report_done(w->engine, ev->step);
}

/* For a coordinator that comes back and knows of no step. Of two plans that are out it is the later one's rows: near enough. */
static void learn_pace(struct worker *w, const struct step_report *r) {
    if (!w->rows) return;
    double ns = 1000.0 * (double)r->step_us / w->rows;
    w->row_ns = w->row_ns > 0 ? 0.9 * w->row_ns + 0.1 * ns : ns;
}

static int on_event(struct worker *w, const struct event *ev, struct why *why) {
    int rc;
    bool unheard = w->state == HOLDING || w->state == REJOINING;
    if (unheard && ev->kind != EVENT_FAILED && ev->kind != EVENT_PREPARED) return drop_event(w, ev), 0;
    switch (ev->kind) {
    case EVENT_READY:
        w->state = SERVING;
        w->ready = ev->ready;
        return sent(port_send_ready(w->port, &ev->ready, NULL, 0), "what was loaded", why);
    case EVENT_TRACE: send_trace(w, ev->trace); return 0;
    case EVENT_STEP:
        learn_pace(w, ev->step);
        ev->step->trace_lost += w->trace_lost; /* its own record came before it */
        w->trace_lost = 0;
        memcpy(w->link, ev->step->link, sizeof w->link);
        w->far = ev->step->far;
        w->tasks = ev->step->tasks;
        w->links_grew = true;
        rc = port_send_step(w->port, ev->step);
        engine_report_done(w->engine, ev->step);
        return sent(rc, "a step's report", why);
    case EVENT_TROUBLE:
        log_warn("step %llu, layer %u: peers %#llx are late", (unsigned long long)ev->trouble.step, ev->trouble.layer,
                 (unsigned long long)ev->trouble.late);
        rc = port_send_trouble(w->port, "peers are late", &ev->trouble);
        return sent(rc, "a word about late peers", why);
    case EVENT_PREPARED: return on_prepared(w, &ev->prepared, why);
    case EVENT_FAILED: *why = ev->failed; return ERR_IO;
    }
    BUG("engine event of kind %d", (int)ev->kind);
}

static int drain_events(struct worker *w, struct why *why) {
    struct event ev;
    engine_event_clear(w->engine);
    while (engine_event_pop(w->engine, &ev)) {
        int rc = on_event(w, &ev, why);
        if (rc < 0) return rc;
    }
    return 0;
}

static void report_load(struct worker *w) {
    uint64_t done, total;
    engine_load_state(w->engine, &done, &total);
    if (!total || done == w->reported_bytes) return;
    w->reported_bytes = done;
    port_send_progress(w->port, done, total);
}

/* Until the Welcome: it says that this worker still waits, and over a new connection who it is. What was said before there was
 * any connection is still on its way, so nothing is added to it then. */
static void repeat_hello(struct worker *w, int64_t now_us) {
    struct bus_link link;
    bus_get_link(w->bus, &link);
    if (!w->next_hello_us || !link.up) w->next_hello_us = now_us + HELLO_US;
    if (now_us < w->next_hello_us) return;
    w->next_hello_us = now_us + HELLO_US;
    say_hello(w); /* a lost one is repeated */
}

/* Counts per domain travel with beats: late by a tenth of a second, and never in a step's way. They are sums since the start,
 * sent for the domains that grew; what could not be sent grows on and goes with a later beat. */
static void report_tally(struct worker *w) {
    const struct tally *t = engine_tally(w->engine);
    size_t n = (size_t)t->layers * (size_t)t->experts;
    uint64_t *rows = NULL;
    for (int d = 1; d < TRACE_DOMAINS; d++) {
        uint64_t tokens = tally_tokens(t, d);
        if (tokens == w->tally_sent[d]) continue;
        if (!rows && !(rows = malloc(sizeof *rows * n))) return;
        if (!tally_read(t, d, rows, &tokens)) continue; /* a step is being added: next time */
        if (port_send_tally(w->port, d, tokens, rows, n) >= 0) w->tally_sent[d] = tokens;
    }
    free(rows);
}

static void report_links(struct worker *w, int64_t now_us) {
    if (!w->links_grew || now_us < w->next_links_us || w->options.engine.workers == 1) return;
    w->next_links_us = now_us + LINKS_US;
    w->links_grew = port_send_links(w->port, w->link, w->options.engine.workers, &w->far, &w->tasks) < 0;
}

static int beat(struct worker *w, int64_t now_us, struct why *why) {
    if (w->state == JOINING && now_us > w->join_by_us)
        return fail(why, ERR_DEADLINE,
                    "no coordinator answers at %s; does it run, and is that its control endpoint (--connect)?",
                    bus_endpoint(w->bus));
    if (w->state == HOLDING && now_us > w->hold_until_us)
        return fail(why, ERR_DEADLINE, "no coordinator came back at %s within %.0f s (--hold)", bus_endpoint(w->bus),
                    (double)w->options.hold_us / 1e6);
    if (now_us < w->next_beat_us) return 0;
    w->next_beat_us = now_us + BEAT_US;
    if (w->state == JOINING || w->state == HOLDING) repeat_hello(w, now_us);
    if (w->state == LOADING || w->preparing) report_load(w);
    if (w->state == SERVING) report_tally(w), report_links(w, now_us);
    bool busy;
    uint64_t progress = engine_progress(w->engine, &busy);
    if (w->state != JOINING && w->state != HOLDING) /* a lost beat is what leases are for */
        port_send_beat(w->port, progress, busy, w->mover ? mover_progress(w->mover) : 0, engine_strangers(w->engine));
    return 0;
}

static void sleep_until(struct worker *w, int64_t until_us) {
    struct pollfd fds[] = {{.fd = bus_fd(w->bus), .events = POLLIN},
                           {.fd = engine_event_fd(w->engine), .events = POLLIN},
                           {.fd = w->kill_bell.fd, .events = POLLIN}};
    int64_t left_ms = (until_us - clk_now_us() + 999) / 1000;
    poll(fds, 3, left_ms > 0 ? (int)left_ms : 0);
}

int worker_run(struct worker *w, struct why *why) {
    w->join_by_us = clk_now_us() + w->options.join_timeout_us;
    int rc = sent(say_hello(w), "a hello", why);
    while (rc >= 0 && w->state != LEAVING && !atomic_load(&w->killed)) {
        rc = drain_events(w, why);
        if (rc >= 0) rc = beat(w, clk_now_us(), why);
        if (rc >= 0) rc = receive(w, why); /* last: a send may swallow the edge of the bus's fd */
        if (rc >= 0 && w->state != LEAVING) sleep_until(w, w->next_beat_us ? w->next_beat_us : clk_now_us() + BEAT_US);
    }
    if (rc < 0 && rc != ERR_CANCELLED && rc != ERR_DENIED && !atomic_load(&w->killed))
        port_send_trouble(w->port, why->text, &(struct trouble){0});
    engine_stop(w->engine);
    engine_join(w->engine);
    if (atomic_load(&w->killed)) return fail(why, ERR_GONE, "killed");
    return rc < 0 ? rc : w->result;
}
