/* procs.h - ranks as forked processes of a test: their start, how they meet over a board, and how they ended. */
#pragma once
#include <sys/types.h>

#include "tests/unit/fabric/board.h"

/* What a rank does; 0, or ERR_* with why. */
typedef int (*procs_main)(struct board *b, int rank, uint32_t incarnation, struct why *why);

/* Dies with the process that started it. */
pid_t procs_start(struct board *b, procs_main run, int rank, uint32_t incarnation);
/* 0 when it ended as it should. */
int procs_end(pid_t pid);
/* Starts ranks 0..n-1, incarnation rank + 1, on a board of their own, and waits for all. 0, or ERR_* with why. */
int procs_run(procs_main run, int n, struct why *why);

/* Attaches a rank once it shows an incarnation above `above`; the one attached, or ERR_*. */
int procs_attach(struct board *b, struct fabric *f, int peer, uint32_t above, struct why *why);
/* Prepares, shows its address, and attaches to all other ranks. */
int procs_meet(struct board *b, struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why);
/* Until *value reaches `least`; ERR_DEADLINE after a long time. With a fabric that is polled meanwhile. */
int procs_await(atomic_long *value, long least, struct fabric *f);

int procs_fds(void);           /* open ones of this process */
long procs_resident_kib(void); /* its memory */
int64_t procs_cpu_us(void); /* that the calling thread has used */
