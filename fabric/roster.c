/* roster.c - the difference between two lists, applied to a fabric. */
#include "fabric/roster.h"

static void let_go(struct roster *r, struct fabric *f, int peer) {
    if (r->incarnation[peer] && peer != f->rank) fabric_detach(f, peer);
    r->incarnation[peer] = 0;
}

int roster_prepare(struct roster *r, struct fabric *f, uint32_t epoch, const struct roster_member *members, struct why *why) {
    if (epoch <= r->prepared) return 0;
    bool in = members[f->rank].incarnation != 0;
    r->current = 0;
    r->members = 0;
    for (int p = 0; p < f->size; p++) {
        uint32_t incarnation = in ? members[p].incarnation : 0;
        if (!incarnation || incarnation != r->incarnation[p]) let_go(r, f, p);
    }
    r->prepared = epoch;
    if (!in) return fail(why, ERR_DENIED, "epoch %u goes on without rank %d", epoch, f->rank);
    for (int p = 0; p < f->size; p++) {
        const struct roster_member *m = &members[p];
        if (!m->incarnation) continue;
        r->members |= UINT64_C(1) << p;
        if (r->incarnation[p] || p == f->rank) continue;
        int rc = fabric_attach(f, p, m->incarnation, m->address, m->bytes, why);
        if (rc < 0) {
            r->members = 0; /* nobody may switch to it */
            return fail_in(why, rc, "epoch %u, rank %d", epoch, p);
        }
        r->incarnation[p] = m->incarnation;
    }
    return 1;
}

bool roster_switch(struct roster *r, uint32_t epoch) {
    if (!epoch || epoch != r->prepared || !r->members) return false;
    r->current = epoch;
    return true;
}
