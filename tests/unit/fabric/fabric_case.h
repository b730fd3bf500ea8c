/* fabric_case.h - what every fabric must keep, run by all ranks at once over whichever one is given: frames of a stream arrive
 * whole, once and in order, whatever their sizes and however lazily they are taken. */
#pragma once
#include "fabric/fabric.h"

/* Sends `frames` frames of random sizes to every peer and checks as many from each. repeats: a fault may deliver a frame twice.
 * Returns 0, ERR_CORRUPT, or what fabric_wait said. */
int fabric_case_run(struct fabric *f, uint64_t seed, int frames, bool repeats, int64_t patience_us, struct why *why);
