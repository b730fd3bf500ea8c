/* join.h - makes a worker one of those that exchange rows: what their frames must carry, attached to all others, links
 * measured. Done before anything is loaded: all workers are welcomed together, and are at this place together only now. */
#pragma once
#include "fabric/ep.h"
#include "fabric/probe.h"
#include "fabric/roster.h"
#include "model/config.h"
#include "worker/setup.h"

struct ep_limits join_limits(const struct worker_setup *s, const struct model_config *c);
/* Links are measured between hosts and inside them when there are several: on one there is nothing to choose (plans, two_hop).
 * What attaching says, with the worker it is about. Owner: the engine thread. */
int join_fabric(struct fabric *f, const struct worker_setup *s, const struct ep_limits *l, struct roster *roster,
                struct probe *links, struct why *why);
/* Where they are: host[size of the fabric]. */
void join_hosts(const struct worker_setup *s, uint8_t *host);
/* The peers of an epoch, as a roster wants them: list[size of the fabric], borrowing from s. */
void join_list(const struct worker_setup *s, struct roster_member *list);
