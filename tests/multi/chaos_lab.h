/* chaos_lab.h - hosts of deploy/netlab for test_chaos: processes that live there, sockets between them, and what can happen to
 * their links. The lab is up already, and is taken down by whoever made it. */
#pragma once
#include "base/status.h"

enum { CHAOS_HOSTS = 8 };
struct chaos_lab {
    const char *program, *name; /* of netlab; of the lab; borrowed */
    int own_net;                /* where this process's own network is */
    int space[CHAOS_HOSTS][4];  /* each host's namespaces */
};

int chaos_lab_open(struct chaos_lab *l, const char *program, const char *name, int hosts, struct why *why);
/* A connection over the lab's network: ends[0] is on host a, ends[1] on host b. */
int chaos_lab_connect(const struct chaos_lab *l, int a, int b, int ends[2], struct why *why);
/* A process of one thread moves there for good. */
int chaos_lab_enter(const struct chaos_lab *l, int host, struct why *why);
/* netlab fault hHOST WORD [hOTHER]; other < 0: without. */
int chaos_lab_fault(const struct chaos_lab *l, int host, const char *word, int other, struct why *why);
