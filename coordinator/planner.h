/* planner.h - which expert lives where: the initial placement, from a rule or from a file. Pure but for planner_read.
 *
 * A placement file has one rule per line; later lines override earlier ones for what they name:
 *
 *     # layers   experts   workers
 *     *          0-3       0
 *     *          4-7       1
 *     3          2         0,2-3        replicas: each takes an even share of the expert's tokens
 *
 *     3          5         -            on no worker: missing until another placement has it
 *
 * Layers are numbered as in the model ('cadre experts' shows them); `*` means all that have experts, all experts, all workers.
 * Every expert of every such layer must be named. A missing one is left out of the choice for requests that allow degraded
 * answers; all others wait. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct planner_shape {
    int workers, layers, experts; /* layers with experts */
    const int *model_layer;       /* [layers] their index in the model, ascending */
    const uint64_t *room;         /* [workers] experts that each has room for, over all layers; NULL: all alike */
};

/* hosts[layers * experts]: masks of workers, as in router/placement.h. */
/* On workers 0 .. first - 1, as many on each as its share of all room is. */
void planner_contiguous(const struct planner_shape *s, int first, uint64_t *hosts);
/* ERR_INVALID with file name and line number. */
int planner_parse(const struct planner_shape *s, const char *text, size_t len, const char *name, uint64_t *hosts,
                  struct why *why);
int planner_read(const struct planner_shape *s, const char *path, uint64_t *hosts, struct why *why);
/* The map when only `members` (not empty) are there. An expert stays or comes back where `first`, the map of the start, has it,
 * if one of those is a member; else stays with the members it is on `now`; else goes to the member with fewest slots in its
 * layer (for the room it has), then in all, then of lowest rank; to one whose room is full only if all are. One that is on no
 * worker in `first` stays so.
 * Members that `first` gives nothing came later: what they have they keep, and while one of them is there experts without a
 * replica move, from who has most of a layer to who has fewest, until these differ by one at most. `to` may be `now`. */
void planner_members(const struct planner_shape *s, const uint64_t *first, const uint64_t *now, uint64_t members,
                     uint64_t *to);
/* What a worker holds: "0-3,7" when that is the same in every layer, else "61 experts in 30 layers".
 * Returns the number of slots. */
int planner_describe(const struct planner_shape *s, const uint64_t *hosts, int worker, char *buf, size_t cap);
