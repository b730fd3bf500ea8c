/* world.c - see world.h. */
#include "tests/sim/world.h"

#include "base/hash.h"

struct world world;
struct world_sum world_sum;

uint64_t world_draw(void) { return hash_u64(world.rng += 0x9e3779b97f4a7c15u); }
int64_t world_range(int64_t lo, int64_t hi) { return lo + (int64_t)(world_draw() % (uint64_t)(hi - lo + 1)); }

void world_put(struct queue *q, struct message m) {
    CHECK(q->n < QUEUE, "a queue is full");
    m.at = world.now + world_range(20, 2 * MS);
    if (m.at < q->last) m.at = q->last;
    q->last = m.at;
    q->m[(q->head + q->n++) % QUEUE] = m;
}
bool world_get(struct queue *q, struct message *m) {
    if (!q->n || q->m[q->head].at > world.now) return false;
    *m = q->m[q->head];
    q->head = (q->head + 1) % QUEUE;
    q->n--;
    return true;
}

void world_say(void) {
    fprintf(stderr, "\nreplay: sim_fabric --seed %" PRIu64 "\nframes of 100: %d delayed, %d overtaken, %d twice, %d dropped\n",
            world.seed, world.faults.delay_percent, world.faults.reorder_percent, world.faults.duplicate_percent,
            world.faults.drop_percent);
    for (int i = 0; i < world.next; i++) {
        const struct trouble *t = &world.trouble[i];
        static const char *const what[] = {"kill", "stop", "cut", "long", "hang"};
        fprintf(stderr, "%.3f s: %s %d, %d, %.3f s\n", (double)t->at / 1e6, what[t->what], t->rank, t->other,
                (double)t->us / 1e6);
    }
    for (int r = 0; r < world.ranks; r++) {
        const struct process *p = &world.p[r];
        fprintf(stderr,
                "rank %d: process %" PRIu64 "%s%s, epoch %u of %u, %d plans, step %" PRIu64
                "%s, waits since %.3f; to the coordinator "
                "process %" PRIu64 ", %s, waited for %" PRIx64 " at %" PRIx64 "\n",
                r, p->life, p->alive ? "" : " dead", p->stopped_until ? " stopped" : "", p->roster.current, p->roster.prepared,
                p->plans, p->plan[0].step, p->in_step ? " begun" : "", (double)p->waits_us / 1e6, world.known[r].life,
                worker_state_name(world.ms.m[r].state), world.accuses[r],
                world.ms.m[r].at);
    }
}
