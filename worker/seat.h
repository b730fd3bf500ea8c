/* seat.h - a worker to which no launcher gave a rank asks the coordinator for one, before its fabric is opened. */
#pragma once
#include "proto/bus.h"

/* The lowest rank that is free, and how many there may be. Asks until there is an answer: a cluster that still waits for its
 * first workers may have no other place yet. ERR_DENIED: there is none, with the reason; ERR_DEADLINE. */
int seat_ask(struct bus *bus, int64_t timeout_us, int *rank, int *size, struct why *why);
