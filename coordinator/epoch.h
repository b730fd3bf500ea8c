/* epoch.h - who takes part in steps, as all who do have agreed. Pure: (state, event, now) in; no I/O, no clock.
 *
 *   STEADY --epoch_open--> PREPARING --the last member acknowledged--> STEADY
 *                            ^    |
 *                            +----+ epoch_open: another change, or somebody did not acknowledge in time
 *
 * An epoch is a number and the processes in it: rank and incarnation. The coordinator alone opens one, whenever a member died,
 * left or came. It tells the members to prepare; each stops what it does for older epochs, lets go of peers that are not in
 * this one or are successors now, attaches to those that are, and acknowledges. Only when all have does the epoch begin, and
 * they are told to switch: so nobody sends to one that does not know it yet, and steps of two epochs never overlap at anyone.
 * Numbers only grow; what is acknowledged for another number, or by another process of the same rank, is of the past.
 * A death opens one at once. Who wants to join waits until the present one has completed a step: so nobody's return holds up
 * those who go on after a death.
 * fabric/roster.h is the workers' side of it. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { EPOCH_RANKS = 64 };
enum epoch_state { EPOCH_STEADY, EPOCH_PREPARING };
struct epoch {
    uint32_t number;                   /* 0: none yet */
    uint64_t members;                  /* mask of ranks */
    uint32_t incarnation[EPOCH_RANKS]; /* of members; others' are 0 */
};
struct epochs {
    enum epoch_state state;
    struct epoch now;  /* in which steps run; PREPARING: in which the last ones ran */
    struct epoch next; /* PREPARING: what members are told */
    uint64_t acknowledged;
    int64_t ack_us, opened_us;
};

void epoch_init(struct epochs *es, int64_t ack_us); /* time a member has to acknowledge */
/* incarnation[EPOCH_RANKS]: of members, not 0. Tell all of them to prepare es->next. When nobody is left, that epoch of nobody
 * begins at once. */
void epoch_open(struct epochs *es, uint64_t members, const uint32_t *incarnation, int64_t now_us);
/* A member says that it has prepared. 1: it was the last one, tell all to switch to es->now; else 0. */
int epoch_ack(struct epochs *es, int rank, uint32_t incarnation, uint32_t number);
/* Members whose time to acknowledge is over: they are dead. */
uint64_t epoch_late(const struct epochs *es, int64_t now_us);
/* When epoch_late has something to say; INT64_MAX: never. */
int64_t epoch_next_us(const struct epochs *es);
