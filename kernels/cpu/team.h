/* team.h - the CPU's stream: a fixed set of threads that share one list of tasks at a time.
 *
 * A dispatch is n tasks claimed one by one from a counter, by the owner and by whoever is awake. The owner returns when the
 * last task is done and never waits for a thread that has claimed nothing: a member that is descheduled, or that another
 * process keeps off its core, costs its share of the work and no more. Which thread runs which task is not determined, so a
 * task's result may not depend on it. Owner: one thread, which is member 0 and makes every call. */
#pragma once
#include <stdint.h>

#include "base/status.h"

typedef void team_fn(void *arg, int task, int thread); /* thread: 0 .. threads-1, for scratch */

struct team;
struct backend_hook;
int  team_open(struct team **out, int threads, struct why *why); /* ERR_EXHAUSTED: the system gives no more threads */
void team_close(struct team *t);                                /* NULL is fine */
/* Member 0 calls *hook after each task that it ran; borrowed, and looked at anew each time. NULL: nothing. */
void team_set_hook(struct team *t, const struct backend_hook *hook);
void team_run(struct team *t, team_fn *fn, void *arg, int tasks);
