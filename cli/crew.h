/* crew.h - the processes that `cadre serve` started beside the coordinator, workers or what launches them: another is started
 * in the place of one that died, unless they die again and again. Owner: the supervisor's only thread. */
#pragma once
#include "cli/fleet.h"
#include "cli/revive.h"
#include "client/cadre.h"

struct crew {
    struct child *workers; /* [n]; borrowed. pid 0: it died */
    int n;
    enum fleet_kind kind;
    struct {
        struct revive revive;
        bool awaited;
        int64_t due_us;
    } again[FLEET_MOST];
    bool revived; /* somebody was */
};

/* After child_collect: says who died, starts whose turn it is. loading: who ends by itself has said why, and would again; only
 * who was killed is started again. ERR_GONE: nobody is left who could serve, or there is no use. */
int crew_tend(struct crew *c, const struct fleet_options *f, bool loading, int64_t now_us, struct why *why);
/* Before the coordinator finishes: no others are started, and those it has not taken in yet, which would never hear of it, are
 * killed. */
void crew_dismiss_newcomers(struct crew *c, struct cadre_client *client);
