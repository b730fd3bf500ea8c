/* exchange.h - steps of an exchange made up from a seed, among those who are members now, as a machine that stops where it
 * would wait: so one thread can run many ranks in virtual time, and a process can look after its other business in between.
 * Every rank can work out alone what must arrive: a row lost, doubled, of another step, or summed in another order shows. */
#pragma once
#include <stdbool.h>

#include "fabric/ep.h"

struct exchange_shape { /* the same on all ranks */
    uint64_t seed;
    int ranks, layers;
    bool two_hop; /* half of the steps are dispatched in two hops; not set by exchange_shape_make */
    struct ep_limits lim;
};
/* Small, and different from seed to seed: k 1..3, H 1..24, tokens up to 1..6, 1..3 layers, on 1..3 hosts, often in
 * parts. */
void exchange_shape_make(struct exchange_shape *s, uint64_t seed, int ranks);
size_t exchange_frame_bytes(const struct exchange_shape *s);

struct exchange;
/* fabric borrowed; NULL: out of memory or a shape that ep refuses. */
struct exchange *exchange_new(const struct exchange_shape *s, struct fabric *f, struct why *why);
void exchange_free(struct exchange *x);
struct ep *exchange_ep(struct exchange *x);

void exchange_begin(struct exchange *x, uint32_t epoch, uint64_t step, uint64_t members);
uint64_t exchange_at(const struct exchange *x); /* where it stands; grows within an epoch */
/* 1: the step is done and all was right. 0: another part of it is done (the engine moved). ERR_LATE with *late: it waits; call
 * again. Other errors are ep's; ERR_CORRUPT with why: what came was wrong. Looks once when the deadline is past. */
int exchange_run(struct exchange *x, int64_t deadline_us, uint64_t *late, struct why *why);
