/* reaper.h - lets a fate befall a cluster while others ask it things: a thread that watches its status and strikes, heals and
 * starts again. Owner: one thread starts and joins it; nobody else may kill or restart workers in between. */
#pragma once
#include "tests/sim/cluster.h"
#include "tests/sim/fate.h"

struct reaper;
struct reaper *reaper_start(struct cluster *c, const struct fate *f, int requests);
/* When nobody asks any more: heals what still is to heal, and waits until the cluster is as it will stay, with the dead back
 * where its fate says so. False, after a line about it: it does not get there. Frees r. strikes: blows that hit. */
bool reaper_join(struct reaper *r, int *strikes);
