/* child.h - the processes a supervisor starts: found beside our own binary, never outliving us, ended in order.
 * Owner: the supervisor's only thread. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "base/status.h"

struct child {
    char name[24];         /* for messages: "the coordinator" */
    bool deaf;             /* signals that ask it to end are not for it: launchers send them to whole process trees */
    pid_t pid;             /* 0: not started */
    bool ended;
    int status;            /* as from waitpid; valid when ended */
};

/* Where a program of Cadre is: beside our own binary, in FOLDER next to our own folder (a build tree), or in PATH (then just
 * its name). Writes to path. */
void child_find(const char *program, const char *folder, char *path, size_t cap);

/* Starts argv[0] in a process group of its own, so that a terminal's Ctrl-C reaches only us, with standard input from nowhere.
 * When we die, however, it gets death_signal. Descriptor `keep` (-1: none) stays open in it under its number. */
int child_start(struct child *c, char *const argv[], int death_signal, int keep, struct why *why);
/* The other half of that promise, for grandchildren: replaces this process by argv, which is killed when our parent dies.
 * mpirun is asked to start its ranks through it, because an mpirun that is ended early may leave them behind. Returns only on
 * failure. */
void child_with_parent(char *const argv[]);
/* The same for this process as it is. */
void child_follow_parent(void);
/* Signals that ask to end are ignored from here on, also by programs that this process becomes. */
void child_deafen(void);
/* Our own binary, as a command to start it again. */
void child_self(char *path, size_t cap);
/* Collects whoever ended. */
void child_collect(struct child *children, int n);
void child_signal(const struct child *c, int signal);
/* "ended with status 1", "was killed by signal 9 (Killed)" */
const char *child_fate(const struct child *c, char *buf, size_t cap);
/* True when it ended with status 0. */
bool child_good(const struct child *c);
/* Processes that are ours because their parent died (needs child_adopt): kills each. Returns how many there were. */
void child_adopt(void);
int  child_kill_strays(const struct child *children, int n);
