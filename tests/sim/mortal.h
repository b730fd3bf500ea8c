/* mortal.h - what stands between one worker and the world in a test: its bus and its fabric, each wrapped.
 *
 * Through them a worker that is a few threads of this process can be stopped in the middle of what it does and go on later, as
 * a process would by SIGSTOP and SIGCONT: its threads stand in their next call. It can be late with an epoch, and something may
 * be done to it just when a certain message passes, before anybody can see that it did. */
#pragma once
#include "fabric/fabric.h"
#include "proto/bus.h"

enum mortal_message { /* as in control.proto; all but Ready and Prepared come to the worker */
    MORTAL_WELCOME = 2,
    MORTAL_READY = 5,
    MORTAL_PLAN = 6,
    MORTAL_EPOCH = 15,
    MORTAL_PREPARED = 16,
    MORTAL_SWITCH = 17
};

struct mortal;
/* Takes both unless it fails; fabric may be NULL. ERR_NOMEM. */
int mortal_new(struct bus *bus, struct fabric *fabric, struct mortal **out);
/* When neither is called any more. The fabric was closed by whoever got it, the bus may have been hung up. */
void mortal_free(struct mortal *m);
/* What the worker gets. The fabric is its to close, the bus stays ours. */
struct bus *mortal_bus(struct mortal *m);
struct fabric *mortal_fabric(struct mortal *m);

/* From any thread. */
void mortal_stop(struct mortal *m); /* returns at once; the worker stands still from its next calls on */
void mortal_continue(struct mortal *m);
void mortal_mute(struct mortal *m); /* and continue: nothing that it sends from now on gets out */
/* Its fabric stands still for so long from when it is told of an epoch; its bus does not. 0: no more. */
void mortal_be_late(struct mortal *m, int us);
/* Once, on the worker's own thread: what comes is then not read yet, what goes has been sent. MORTAL_PLAN means the first one
 * after a Switch. One trip at a time. */
void mortal_trip(struct mortal *m, enum mortal_message at, void (*act)(void *ctx, int rank), void *ctx, int rank);

/* The worker's own thread, when it has ended: others see its connection close. */
void mortal_hang_up(struct mortal *m);
