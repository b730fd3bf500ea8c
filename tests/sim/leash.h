/* leash.h - a bus that can be cut from one moment to the next, as that of a process that is killed: nothing gets out or in any
 * more, and who sends is told that nobody is there. */
#pragma once
#include "proto/bus.h"

struct leash;
int leash_new(struct bus *bus, struct leash **out); /* the bus stays the caller's */
struct bus *leash_bus(struct leash *l);
void leash_cut(struct leash *l); /* any thread */
void leash_free(struct leash *l);
