/* epoch.c - two masks and a number. */
#include "coordinator/epoch.h"

#include "base/log.h"

static void set_state(struct epochs *es, enum epoch_state to) {
    if (to == EPOCH_STEADY && (es->state != EPOCH_PREPARING || es->acknowledged != es->next.members))
        BUG("epoch %u begins without all its members", es->next.number);
    es->state = to;
}

static void begin(struct epochs *es) {
    set_state(es, EPOCH_STEADY);
    es->now = es->next;
}

void epoch_init(struct epochs *es, int64_t ack_us) { *es = (struct epochs){.ack_us = ack_us}; }

void epoch_open(struct epochs *es, uint64_t members, const uint32_t *incarnation, int64_t now_us) {
    uint32_t last = es->next.number > es->now.number ? es->next.number : es->now.number;
    if (last == UINT32_MAX) BUG("no epoch after %u", last);
    es->next = (struct epoch){.number = last + 1, .members = members};
    for (int r = 0; r < EPOCH_RANKS; r++)
        if (members >> r & 1) es->next.incarnation[r] = incarnation[r];
    es->acknowledged = 0;
    es->opened_us = now_us;
    set_state(es, EPOCH_PREPARING);
    if (!members) begin(es);
}

int epoch_ack(struct epochs *es, int rank, uint32_t incarnation, uint32_t number) {
    if (es->state != EPOCH_PREPARING || number != es->next.number || rank < 0 || rank >= EPOCH_RANKS) return 0;
    if (!(es->next.members >> rank & 1) || incarnation != es->next.incarnation[rank]) return 0;
    es->acknowledged |= UINT64_C(1) << rank;
    if (es->acknowledged != es->next.members) return 0;
    begin(es);
    return 1;
}

int64_t epoch_next_us(const struct epochs *es) { return es->state == EPOCH_PREPARING ? es->opened_us + es->ack_us : INT64_MAX; }

uint64_t epoch_late(const struct epochs *es, int64_t now_us) {
    return now_us >= epoch_next_us(es) ? es->next.members & ~es->acknowledged : 0;
}
