/* joiner.h - a rank of `cadre serve` that does not run the coordinator: waits until it knows where that is, then keeps a
 * worker of it (cli/tend.h), or leaves that to the head. */
#pragma once
#include "cli/fleet.h"

/* The exit status. f->control is filled in here. */
int joiner_run(struct rank *r, struct fleet_options *f);
/* The head, on this host, starts all workers: until it has ended. */
int joiner_wait(struct rank *r);
