/* chaos.c - one worker: looks at its socket and at its exchange in turn, never longer at one than a few milliseconds. */
#include "tests/multi/chaos.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clk.h"
#include "fabric/roster.h"
#include "tests/unit/fabric/procs.h"

enum { SLICE_US = 2000, PLANS = 2 };

struct worker {
    const struct chaos_life *life;
    struct fabric *f;
    struct exchange *x;
    struct roster roster;
    struct chaos_message plan[PLANS];
    int plans;
    bool in_step;
    uint64_t progress;
    int64_t beat_us, still_until, waits_us; /* still: stalled, or computing */
};

int chaos_take(int socket, struct chaos_message *m) {
    ssize_t n = recv(socket, m, sizeof *m, MSG_PEEK | MSG_DONTWAIT); /* a stream's may have come in part */
    if (n == (ssize_t)sizeof *m) return recv(socket, m, sizeof *m, MSG_DONTWAIT) == n ? 1 : ERR_GONE;
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)) ? 0 : ERR_GONE;
}

static void say(struct worker *w, struct chaos_message m) {
    if (send(w->life->socket, &m, sizeof m, MSG_NOSIGNAL) < 0) _exit(0); /* the test is gone */
}

static _Noreturn void broken(struct worker *w, int rc, const struct why *why) {
    struct chaos_message m = {.kind = CHAOS_BROKEN};
    fail(&m.why, rc, "rank %d, life %d, epoch %u, step %llu: %s: %s", w->life->rank, w->life->life, w->roster.current,
         (unsigned long long)(w->plans ? w->plan[0].step : 0), status_name(rc), why->text);
    say(w, m);
    _exit(1);
}

static void welcome(struct worker *w, const struct chaos_message *m) {
    struct why why = {"out of memory"};
    int rc = fabric_prepare(w->f, exchange_frame_bytes(&w->life->shape), m->incarnation, &why);
    if (rc >= 0 && !(w->x = exchange_new(&w->life->shape, w->f, &why))) rc = ERR_NOMEM;
    if (rc < 0) broken(w, rc, &why);
    say(w, (struct chaos_message){.kind = CHAOS_READY});
}

static void prepare(struct worker *w, const struct chaos_message *m) {
    struct roster_member list[CHAOS_RANKS];
    struct why why = {""};
    for (int r = 0; r < CHAOS_RANKS; r++) {
        const struct chaos_address *a = &w->life->board->address[m->life[r]];
        list[r] = (struct roster_member){m->members.incarnation[r], a->text, a->bytes};
    }
    int rc = roster_prepare(&w->roster, w->f, m->members.number, list, &why);
    if (rc < 0) broken(w, rc, &why);
    if (!rc) return;
    ep_tell_epoch(exchange_ep(w->x), m->members.number);
    w->in_step = false;
    w->plans = 0;
    w->waits_us = 0;
    say(w, (struct chaos_message){.kind = CHAOS_ACK, .epoch = m->members.number});
}

static void hear(struct worker *w, const struct chaos_message *m) {
    struct why why = {"more plans than may be out"};
    switch (m->kind) {
    case CHAOS_WELCOME: welcome(w, m); return;
    case CHAOS_PREPARE: prepare(w, m); return;
    case CHAOS_SWITCH: roster_switch(&w->roster, m->epoch); return;
    case CHAOS_STALL: w->still_until = clk_now_us() + m->us; return;
    case CHAOS_PLAN:
        if (m->epoch != w->roster.current) return;
        if (w->plans == PLANS) broken(w, ERR_PROTOCOL, &why);
        w->plan[w->plans++] = *m;
        return;
    default: _exit(0);
    }
}

static void attend(struct worker *w, int64_t until_us) {
    struct chaos_message m;
    int64_t left_us = until_us - clk_now_us();
    struct pollfd fd = {.fd = w->life->socket, .events = POLLIN};
    int rc;
    if (left_us > 0) poll(&fd, 1, (int)(left_us / 1000 + 1));
    while ((rc = chaos_take(w->life->socket, &m)) > 0) hear(w, &m);
    if (rc < 0) _exit(0);
}

static void beat(struct worker *w) {
    int64_t now = clk_now_us();
    if (now < w->beat_us) return;
    w->beat_us = now + CHAOS_BEAT_US;
    say(w, (struct chaos_message){.kind = CHAOS_BEAT,
                                  .progress = w->progress,
                                  .busy = w->in_step,
                                  .fds = procs_fds(),
                                  .resident_kib = procs_resident_kib()});
}

static void accuse(struct worker *w, uint64_t late) {
    int64_t now = clk_now_us(), patience_us = chaos_patience_us(w->plan[0].us);
    if (!w->waits_us) w->waits_us = now;
    if (now - w->waits_us < patience_us) return;
    w->waits_us = now;
    say(w, (struct chaos_message){.kind = CHAOS_TROUBLE, .late = late, .step = exchange_at(w->x)});
}

/* One piece of the step that is due. */
static void work(struct worker *w) {
    struct why why = {""};
    uint64_t late;
    if (!w->in_step) exchange_begin(w->x, w->roster.current, w->plan[0].step, w->roster.members);
    w->in_step = true;
    int rc = exchange_run(w->x, clk_now_us() + SLICE_US, &late, &why);
    if (rc == ERR_LATE) return accuse(w, late);
    if (rc < 0) broken(w, rc, &why);
    w->progress++;
    w->waits_us = 0;
    if (rc == 0 && w->plan[0].rank == w->life->rank) { /* once, and no sign of progress but at the end */
        w->still_until = clk_now_us() + w->plan[0].us;
        w->plan[0].rank = -1;
    }
    if (rc == 0) return;
    say(w, (struct chaos_message){.kind = CHAOS_DONE, .epoch = w->roster.current, .step = w->plan[0].step});
    memmove(w->plan, w->plan + 1, sizeof w->plan[0] * (size_t)--w->plans);
    w->in_step = false;
}

void chaos_worker(const struct chaos_life *life) {
    struct worker w = {.life = life};
    struct why why = {""};
    struct chaos_message hello = {.kind = CHAOS_HELLO};
    struct chaos_address *a = &life->board->address[life->life];
    int rc = life->open(life->rank, CHAOS_RANKS, &w.f, &why);
    if (rc < 0) broken(&w, rc, &why);
    a->bytes = fabric_address(w.f, a->text);
    hello.life[life->rank] = (uint32_t)life->life;
    say(&w, hello);
    for (;;) {
        bool works = w.plans && clk_now_us() >= w.still_until;
        attend(&w, works ? 0 : clk_now_us() + SLICE_US);
        if (w.x) beat(&w);
        if (w.plans && clk_now_us() >= w.still_until) work(&w);
        else if (w.x && clk_now_us() >= w.still_until) ep_progress(exchange_ep(w.x));
    }
}
