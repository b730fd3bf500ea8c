/* fake.c - see fake.h. One thread turns the crank for all workers and clients; the coordinator has its own. */
#include "tests/unit/coordinator/fake.h"

#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "base/log.h"
#include "model/checkpoint.h"
#include "proto/client.pb-c.h"
#include "proto/frame.h"
#include "worker/port.h"

enum { BEAT_US = 50 * 1000, DEADLINE_US = 30 * 1000 * 1000, PLANS = 8, SEQS = 64, PLENTY = 1000000 };

struct fake_seq {
    uint64_t id;
    int n, prompt, max;
    int32_t stop_ids[32];
    int n_stop_ids;
    bool done;
};
struct fake_worker {
    struct bus *bus;
    struct port *port;
    struct plan plans[PLANS];
    int first, n_plans; /* queue of plans not answered */
    struct fake_seq seqs[SEQS];
    struct fake_faults faults;
    struct worker_setup setup;
    bool refused, leave, abort, ready;
    char reason[512];
    int64_t beat_us;
    uint64_t progress;
    int steps, dropped, beats;
    uint32_t begun, prepared; /* epochs */
};
struct fake {
    struct coordinator_options options;
    struct bus_hub *hub;
    struct bus *clients, *workers, *client;
    struct coordinator *coordinator;
    pthread_t thread;
    atomic_bool over;
    int result;
    struct why why;
    uint64_t fingerprint;
    struct fake_worker worker[FAKE_WORKERS];
    struct fake_call calls[FAKE_CALLS];
    int n_calls, life; /* life: of this process's fakes, so that no call id comes twice */
    struct fake_status status;
    bool status_known;
};

static void *coordinator_main(void *arg) {
    struct fake *f = arg;
    f->result = coordinator_run(f->coordinator, &f->why);
    atomic_store(&f->over, true);
    return NULL;
}

struct fake *fake_new(const struct coordinator_options *o) {
    struct fake *f = calloc(1, sizeof *f);
    struct why why = {""};
    struct checkpoint checkpoint;
    static int lives;
    f->life = lives++;
    f->options = *o;
    f->hub = bus_hub_new();
    log_set_level(LOG_ERROR);
    ck_assert_int_ge(checkpoint_open(o->model_dir, &checkpoint, &why), 0);
    f->fingerprint = checkpoint.fingerprint;
    checkpoint_close(&checkpoint);
    ck_assert_int_ge(bus_mem_bind(f->hub, "clients", &f->clients, &why), 0);
    ck_assert_int_ge(bus_mem_bind(f->hub, "workers", &f->workers, &why), 0);
    ck_assert_int_ge(bus_mem_connect(f->hub, "clients", &f->client, &why), 0);
    ck_assert_msg(coordinator_new(o, f->clients, f->workers, &f->coordinator, &why) >= 0, "%s", why.text);
    ck_assert_int_eq(pthread_create(&f->thread, NULL, coordinator_main, f), 0);
    return f;
}

void fake_crash(struct fake *f, int rank) {
    struct fake_worker *w = &f->worker[rank];
    port_free(w->port);
    bus_close(w->bus);
    for (int i = 0; i < PLANS; i++) arena_clear(&w->plans[i].arena);
    worker_setup_clear(&w->setup);
    memset(w, 0, sizeof *w);
}

void fake_free(struct fake *f) {
    coordinator_stop(f->coordinator, false);
    for (int64_t until = fake_deadline(); !atomic_load(&f->over);) {
        for (int i = 0; i < FAKE_WORKERS; i++)
            if (f->worker[i].bus && f->worker[i].leave) fake_crash(f, i);
        fake_turn(f, until);
    }
    pthread_join(f->thread, NULL);
    coordinator_free(f->coordinator);
    for (int i = 0; i < FAKE_WORKERS; i++)
        if (f->worker[i].bus) fake_crash(f, i);
    bus_close(f->client);
    bus_close(f->clients);
    bus_close(f->workers);
    bus_hub_free(f->hub);
    free(f);
}

/* ---- workers ---- */
static void join(struct fake *f, int rank, uint32_t epoch, uint64_t members) {
    struct fake_worker *w = &f->worker[rank];
    struct why why;
    ck_assert_int_ge(bus_mem_connect(f->hub, "workers", &w->bus, &why), 0);
    ck_assert_int_ge(port_new(w->bus, &w->port), 0);
    for (int i = 0; i < PLANS; i++) arena_init(&w->plans[i].arena, 1 << 12);
    struct port_hello h = {.rank = rank,
                           .size = f->options.workers + w->faults.size_off,
                           .host = "here",
                           .host_id = rank % 2 ? "odd" : "even",
                           .fabric = "mem",
                           .pid = 1000 + (uint64_t)rank,
                           .address = (const uint8_t[]){7, 8, (uint8_t)rank},
                           .address_bytes = 3,
                           .door = "",
                           .held = {epoch ? (uint32_t)rank + 1 : 0, epoch, 0, members, 0}};
    ck_assert_int_ge(port_send_hello(w->port, &h), 0);
}
void fake_join(struct fake *f, int rank) { join(f, rank, 0, 0); }
void fake_rejoin(struct fake *f, int rank, uint32_t epoch, uint64_t members) { join(f, rank, epoch, members); }

void fake_join_all(struct fake *f) {
    for (int i = 0; i < f->options.workers; i++) fake_join(f, i);
    fake_run(f, !strcmp(fake_status(f).state, "serving"));
}

static int count_slots(const struct placement *p, int rank) {
    int n = 0;
    for (int l = 0; l < p->layers; l++) n += placement_slots(p, rank, l);
    return n;
}

static void send_ready(struct fake *f, int rank) {
    struct fake_worker *w = &f->worker[rank];
    struct ready_report r = {.fingerprint = f->fingerprint + w->faults.fingerprint_off,
                             .slots = count_slots(&w->setup.placement, rank)};
    snprintf(r.numeric_class, sizeof r.numeric_class, "%s", w->faults.numeric_class ? w->faults.numeric_class : "fake");
    port_send_progress(w->port, 50, 100);
    port_send_ready(w->port, &r, NULL, 0);
    w->ready = true;
}

/* Everybody hears the same of everybody: what they said at Hello. */
static void check_peers(struct fake *f, int rank) {
    const struct worker_setup *s = &f->worker[rank].setup;
    ck_assert_int_eq(s->n_peers, f->options.workers);
    for (int i = 0; i < s->n_peers; i++) {
        if (!s->peers[i].incarnation && f->options.survive) continue; /* not there */
        ck_assert_uint_eq(s->peers[i].address_bytes, 3);
        ck_assert_int_eq(s->peers[i].address[2], i);
        for (int j = 0; j < i; j++) {
            if (!s->peers[j].incarnation) continue;
            ck_assert_uint_ne(s->peers[i].incarnation, s->peers[j].incarnation);
            ck_assert((s->peers[i].host == s->peers[j].host) == (i % 2 == j % 2));
        }
    }
}

/* What was under way is over: plans, sequences. */
static void take_epoch(struct fake *f, int rank, const struct worker_setup *s) {
    struct fake_worker *w = &f->worker[rank];
    ck_assert_uint_gt(s->epoch, w->setup.epoch);
    ck_assert_uint_eq(s->peers[rank].incarnation, w->setup.incarnation);
    w->n_plans = 0;
    memset(w->seqs, 0, sizeof w->seqs);
    struct worker_setup was = w->setup;
    w->setup = *s;
    w->setup.incarnation = was.incarnation;
    worker_setup_clear(&was);
    check_peers(f, rank);
}

static void turn_epoch(struct fake_worker *w, int rank) {
    if (w->prepared == w->setup.epoch || w->faults.slow || w->faults.silent) return;
    w->prepared = w->setup.epoch;
    port_send_prepared(w->port, &(struct prepared_report){.epoch = w->prepared,
                                                          .slots = count_slots(&w->setup.placement, rank)});
}

static struct plan *take_plan(void *ctx) {
    struct fake_worker *w = ctx;
    ck_assert_int_lt(w->n_plans, PLANS);
    struct plan *p = &w->plans[(w->first + w->n_plans++) % PLANS];
    struct arena arena = p->arena;
    arena_reset(&arena);
    *p = (struct plan){.arena = arena};
    return p;
}

static struct fake_seq *find_seq(struct fake_worker *w, uint64_t id) {
    for (int i = 0; i < SEQS; i++)
        if (w->seqs[i].id == id) return &w->seqs[i];
    return NULL;
}

static void change_seqs(struct fake_worker *w, const struct plan *p) {
    for (int i = 0; i < p->n_drop; i++) {
        struct fake_seq *q = find_seq(w, p->drop[i]);
        ck_assert_ptr_nonnull(q);
        q->id = 0;
        w->dropped++;
    }
    for (int i = 0; i < p->n_start; i++) {
        const struct plan_start *s = &p->start[i];
        struct fake_seq *q = find_seq(w, 0);
        ck_assert_ptr_nonnull(q);
        *q = (struct fake_seq){
            .id = s->seq, .n = s->n_ids, .prompt = s->prompt_tokens, .max = s->max_tokens, .n_stop_ids = s->n_stop_ids};
        memcpy(q->stop_ids, s->stop_ids, sizeof(int32_t) * (size_t)s->n_stop_ids);
    }
}

static void sample(struct fake_worker *w, const struct plan_run *run, struct step_report *r) {
    struct fake_seq *q = find_seq(w, run->seq);
    ck_assert_ptr_nonnull(q);
    if (q->done || !run->sample) return;
    ck_assert_int_eq(run->first + run->count, q->n);
    struct seq_out *o = &r->out[r->n_out++];
    *o = (struct seq_out){.seq = q->id, .position = q->n, .token = 10 + q->n % 80, .logprob = -1};
    q->n++;
    for (int i = 0; i < q->n_stop_ids; i++)
        if (q->stop_ids[i] == o->token) o->finish = SEQ_STOP;
    if (!o->finish && q->n == q->prompt + q->max) o->finish = SEQ_LENGTH;
    q->done = o->finish;
    if (w->faults.wrong_token) o->position++;
    if (w->faults.no_token) r->n_out--;
}

static void answer(struct fake *f, int rank) {
    struct fake_worker *w = &f->worker[rank];
    const struct plan *p = &w->plans[w->first];
    struct seq_out out[SEQS];
    uint32_t rows[256] = {0};
    struct step_report r = {.epoch = p->epoch,
                            .step = p->step,
                            .out = out,
                            .rows = rows,
                            .n_rows = count_slots(&w->setup.placement, rank),
                            .step_us = 100,
                            .workers = f->options.workers};
    r.n_rows += w->faults.wrong_rows;
    change_seqs(w, p);
    for (int i = 0; i < p->n_run; i++) sample(w, &p->run[i], &r);
    w->first = (w->first + 1) % PLANS;
    w->n_plans--;
    w->progress++;
    port_send_step(w->port, &r);
}

static void turn_worker(struct fake *f, int rank) {
    struct fake_worker *w = &f->worker[rank];
    struct port_message m;
    struct plan *plan = NULL;
    struct why why;
    while (port_recv(w->port, &m, take_plan, w, &plan, &why) == 0) {
        if (m.kind == PORT_WELCOME) {
            w->setup = m.setup;
            ck_assert_uint_eq(w->setup.peers[rank].incarnation, w->setup.incarnation);
            w->begun = w->prepared = w->setup.epoch;
            check_peers(f, rank);
            if (!w->faults.silent && !w->faults.loads) send_ready(f, rank);
        } else if (m.kind == PORT_EPOCH) {
            take_epoch(f, rank, &m.setup);
        } else if (m.kind == PORT_SWITCH) {
            ck_assert_uint_eq(m.epoch, w->prepared);
            w->begun = m.epoch;
        } else if (m.kind == PORT_PLAN) {
            ck_assert_uint_eq(plan->epoch, w->begun);
            w->steps++;
        } else if (m.kind == PORT_REFUSE || m.kind == PORT_SHUTDOWN) {
            if (m.kind == PORT_REFUSE) w->refused = true;
            else w->leave = true, w->abort = m.abort;
            memcpy(w->reason, m.reason, sizeof w->reason);
        }
    }
    if (w->faults.silent) return;
    turn_epoch(w, rank);
    while (w->n_plans && !w->faults.hold) answer(f, rank);
    int64_t now = clk_now_us();
    if (!(w->ready || w->faults.loads) || now - w->beat_us < BEAT_US) return;
    w->beat_us = now;
    w->beats++;
    uint64_t moved = w->faults.unmoved ? 1 : (uint64_t)w->beats;
    port_send_beat(w->port, w->faults.stuck ? 1 : w->progress++, w->faults.stuck, moved, 0);
}

struct fake_faults *fake_faults(struct fake *f, int rank) {
    return &f->worker[rank].faults;
}
void fake_trouble(struct fake *f, int rank, const char *reason, uint64_t late, uint32_t call) {
    port_send_trouble(f->worker[rank].port, reason, &(struct trouble){.step = 1, .late = late, .layer = call, .call = call});
}
bool fake_refused(struct fake *f, int rank, char *reason, size_t cap) {
    snprintf(reason, cap, "%s", f->worker[rank].reason);
    return f->worker[rank].refused;
}
bool fake_told_to_leave(struct fake *f, int rank, bool *abort) {
    *abort = f->worker[rank].abort;
    return f->worker[rank].leave;
}
int fake_steps(struct fake *f, int rank) { return f->worker[rank].steps; }
int fake_dropped(struct fake *f, int rank) { return f->worker[rank].dropped; }
int fake_beats(struct fake *f, int rank) { return f->worker[rank].beats; }
int fake_held(struct fake *f, int rank) {
    int n = 0;
    for (int i = 0; i < SEQS; i++) n += f->worker[rank].seqs[i].id != 0;
    return n;
}
uint32_t fake_epoch(struct fake *f, int rank) { return f->worker[rank].begun; }
uint32_t fake_told_of(struct fake *f, int rank) { return f->worker[rank].setup.epoch; }

/* ---- clients ---- */
static void send_frame(struct fake *f, struct frame *frame, struct fake_call *c, const void *payload, size_t len) {
    uint8_t head[512];
    frame->version = FRAME_VERSION;
    frame->call_id = c->id;
    frame->call_id_len = sizeof c->id;
    int n = frame_encode(frame, head, sizeof head);
    ck_assert_int_gt(n, 0);
    ck_assert_int_eq(bus_send(f->client, NULL, head, (size_t)n, payload ? payload : "", len), 0);
}

static struct fake_call *open_as(struct fake *f, const uint8_t *id, const char *method, const void *payload, size_t len,
                                 uint32_t credits, uint64_t timeout_ms) {
    ck_assert_int_lt(f->n_calls, FAKE_CALLS);
    struct fake_call *c = &f->calls[f->n_calls++];
    int unique = f->n_calls + f->life * FAKE_CALLS;
    memcpy(c->id, &unique, sizeof unique);
    if (id) memcpy(c->id, id, sizeof c->id);
    struct frame frame = {
        .kind = FRAME_OPEN, .method = method, .credits = credits ? credits : PLENTY, .timeout_ms = timeout_ms};
    send_frame(f, &frame, c, payload, len);
    return c;
}

struct fake_call *fake_open(struct fake *f, const char *method, const void *payload, size_t len, uint32_t credits,
                            uint64_t timeout_ms) {
    struct fake_call *c = open_as(f, NULL, method, payload, len, credits, timeout_ms);
    c->events = !strcmp(method, "Events");
    return c;
}

struct fake_call *fake_generate(struct fake *f, const struct fake_ask *a) {
    int32_t ids[4096], stop_id = a->stop_id;
    Cadre__V1__TokenIds list = CADRE__V1__TOKEN_IDS__INIT;
    Cadre__V1__Sampling sampling = CADRE__V1__SAMPLING__INIT;
    Cadre__V1__GenerateRequest r;
    cadre__v1__generate_request__init(&r);
    ProtobufCBinaryData stop = {a->stop ? strlen(a->stop) : 0, (uint8_t *)a->stop};
    for (int i = 0; i < a->prompt; i++) ids[i] = 1 + i % 200;
    list.ids = ids;
    list.n_ids = (size_t)a->prompt;
    sampling.temperature = a->temperature;
    r.sampling = &sampling;
    if (a->text) {
        r.input_case = CADRE__V1__GENERATE_REQUEST__INPUT_PROMPT;
        r.prompt = (ProtobufCBinaryData){strlen(a->text), (uint8_t *)a->text};
    } else {
        r.input_case = CADRE__V1__GENERATE_REQUEST__INPUT_IDS;
        r.ids = &list;
    }
    r.has_max_tokens = a->max_tokens >= 0;
    r.max_tokens = a->max_tokens >= 0 ? (uint32_t)a->max_tokens : 0;
    r.stop = &stop;
    r.n_stop = a->stop != NULL;
    r.stop_ids = &stop_id;
    r.n_stop_ids = stop_id != 0;
    r.resumable = a->resumable;
    r.logprobs = a->logprobs;
    uint8_t buf[32768];
    size_t len = cadre__v1__generate_request__pack(&r, buf);
    return open_as(f, a->id, "Generate", buf, len, a->credits, a->timeout_ms);
}

struct fake_call *fake_resume(struct fake *f, const uint8_t id[16], const struct fake_call *had) {
    Cadre__V1__ResumeRequest r = CADRE__V1__RESUME_REQUEST__INIT;
    uint8_t buf[128];
    r.call_id = (ProtobufCBinaryData){16, (uint8_t *)id};
    r.started = had->started;
    r.tokens = (uint32_t)had->n_tokens;
    r.text_bytes = strlen(had->text);
    struct fake_call before = *had;
    struct fake_call *c = fake_open(f, "Resume", buf, cadre__v1__resume_request__pack(&r, buf), 0, 0);
    memcpy(before.id, c->id, sizeof before.id);
    before.ended = before.finished = false;
    before.data_frames = 0;
    *c = before;
    return c;
}

void fake_reconnect(struct fake *f) {
    struct why why;
    bus_close(f->client);
    ck_assert_int_ge(bus_mem_connect(f->hub, "clients", &f->client, &why), 0);
}

void fake_credit(struct fake *f, struct fake_call *c, uint32_t more) {
    struct frame frame = {.kind = FRAME_CREDIT, .credits = more};
    send_frame(f, &frame, c, NULL, 0);
}
void fake_cancel(struct fake *f, struct fake_call *c) {
    struct frame frame = {.kind = FRAME_CANCEL};
    send_frame(f, &frame, c, NULL, 0);
}

static void append(struct fake_call *c, ProtobufCBinaryData text) {
    size_t at = strlen(c->text);
    ck_assert_int_lt(at + text.len, sizeof c->text);
    if (text.len) memcpy(c->text + at, text.data, text.len);
    c->text[at + text.len] = 0;
}

static void read_event(struct fake_call *c, const uint8_t *data, size_t len) {
    Cadre__V1__GenerateEvent *e = cadre__v1__generate_event__unpack(NULL, len, data);
    ck_assert_ptr_nonnull(e);
    if (e->kind_case == CADRE__V1__GENERATE_EVENT__KIND_STARTED) {
        ck_assert(!c->started);
        c->started = true;
        c->request = e->started->request;
        c->seed = e->started->seed;
        c->resumable = e->started->resumable;
        c->prompt_tokens = (int)e->started->prompt_tokens;
    } else if (e->kind_case == CADRE__V1__GENERATE_EVENT__KIND_TOKENS) {
        ck_assert(c->started && !c->finished);
        ck_assert_int_eq((int)e->tokens->first, c->n_tokens);
        for (size_t i = 0; i < e->tokens->n_token; i++) c->tokens[c->n_tokens++] = e->tokens->token[i]->id;
        append(c, e->tokens->text);
    } else {
        ck_assert_int_eq(e->kind_case, CADRE__V1__GENERATE_EVENT__KIND_FINISHED);
        ck_assert(!c->finished);
        c->finished = true;
        ck_assert_int_eq((int)e->finished->usage->completion_tokens, c->n_tokens);
        snprintf(c->reason, sizeof c->reason, "%s", e->finished->reason);
        append(c, e->finished->text);
    }
    cadre__v1__generate_event__free_unpacked(e, NULL);
}

static void read_cluster_event(struct fake_call *c, const uint8_t *data, size_t len) {
    Cadre__V1__ClusterEvent *e = cadre__v1__cluster_event__unpack(NULL, len, data);
    ck_assert_ptr_nonnull(e);
    ck_assert_uint_eq(e->number, (uint64_t)c->data_frames);
    append(c, (ProtobufCBinaryData){.len = strlen(e->kind), .data = (uint8_t *)e->kind});
    append(c, (ProtobufCBinaryData){.len = 1, .data = (uint8_t *)" "});
    cadre__v1__cluster_event__free_unpacked(e, NULL);
}

static void read_status(struct fake *f, const uint8_t *data, size_t len) {
    Cadre__V1__StatusReply *r = cadre__v1__status_reply__unpack(NULL, len, data);
    ck_assert_ptr_nonnull(r);
    f->status = (struct fake_status){.waiting = (int)r->waiting,
                                     .running = (int)r->running,
                                     .finished = r->finished,
                                     .cancelled = r->cancelled,
                                     .expired = r->expired,
                                     .failed = r->failed,
                                     .health = (int)r->health->level};
    snprintf(f->status.part, sizeof f->status.part, "%s", r->health->part);
    snprintf(f->status.state, sizeof f->status.state, "%s", r->state);
    snprintf(f->status.reason, sizeof f->status.reason, "%s", r->reason);
    if (r->journal) snprintf(f->status.journal_fault, sizeof f->status.journal_fault, "%s", r->journal->fault);
    for (size_t i = 0; i < r->n_workers; i++) f->status.pages_used += (int)r->workers[i]->kv_pages_used;
    f->status_known = true;
    cadre__v1__status_reply__free_unpacked(r, NULL);
}

static const uint8_t status_id[16] = "status";

static void turn_client(struct fake *f) {
    struct bus_msg m;
    while (bus_recv(f->client, &m) == 0) {
        struct frame frame;
        ck_assert_int_eq(frame_decode(m.head, m.head_len, &frame), 0);
        struct fake_call *c = NULL;
        for (int i = 0; i < f->n_calls; i++) /* the last of those with one id */
            if (!memcmp(f->calls[i].id, frame.call_id, 16)) c = &f->calls[i];
        if (!memcmp(frame.call_id, status_id, 16)) {
            if (frame.kind == FRAME_DATA) read_status(f, m.body, m.body_len);
        } else if (frame.kind == FRAME_DATA) {
            ck_assert(c && !c->ended);
            ck_assert_int_eq((int)frame.index, c->data_frames++);
            if (c->events) read_cluster_event(c, m.body, m.body_len);
            else read_event(c, m.body, m.body_len);
        } else if (frame.kind == FRAME_END) {
            ck_assert(c && !c->ended);
            c->ended = true;
            c->status = (int)frame.status;
            snprintf(c->message, sizeof c->message, "%s", frame.message);
        }
        frame_clear(&frame);
    }
}

struct fake_status fake_status(struct fake *f) {
    struct fake_call c = {0};
    memcpy(c.id, status_id, sizeof c.id);
    struct frame frame = {.kind = FRAME_OPEN, .method = "Status", .credits = 1};
    f->status_known = false;
    send_frame(f, &frame, &c, NULL, 0);
    fake_run(f, f->status_known);
    return f->status;
}

/* ---- the crank ---- */
int64_t fake_deadline(void) { return clk_now_us() + DEADLINE_US; }

bool fake_turn(struct fake *f, int64_t until_us) {
    struct pollfd fds[FAKE_WORKERS + 1];
    int n = 0;
    for (int i = 0; i < FAKE_WORKERS; i++)
        if (f->worker[i].bus) turn_worker(f, i);
    turn_client(f);
    for (int i = 0; i < FAKE_WORKERS; i++)
        if (f->worker[i].bus) fds[n++] = (struct pollfd){.fd = bus_fd(f->worker[i].bus), .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = bus_fd(f->client), .events = POLLIN};
    poll(fds, (nfds_t)n, 5);
    return clk_now_us() < until_us;
}

bool fake_over(struct fake *f, int *result, struct why *why) {
    if (!atomic_load(&f->over)) return false;
    *result = f->result;
    *why = f->why;
    return true;
}
void fake_stop(struct fake *f, bool drain) { coordinator_stop(f->coordinator, drain); }
