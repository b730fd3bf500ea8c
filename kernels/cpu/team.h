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
struct backend;
int  team_open(struct team **out, int threads, struct why *why); /* ERR_EXHAUSTED: the system gives no more threads */
void team_close(struct team *t);                                /* NULL is fine */
/* Member 0 calls b->between after each task that it ran and while it waits for others' last ones, and counts in b->tasks how
 * long it did not. Borrowed, and looked at anew each time. */
void team_set_backend(struct team *t, struct backend *b);
/* From inside a task that may take long, every hundred microseconds or less: what member 0 does between tasks, so long as
 * `thread` is 0. */
void team_between(struct team *t, int thread);
void team_run(struct team *t, team_fn *fn, void *arg, int tasks);
