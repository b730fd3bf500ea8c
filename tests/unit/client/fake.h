/* fake.h - a server that speaks the whole client protocol and makes its answers up: enough cluster to test clients against.
 *
 * What Generate does is decided by the prompt:
 *   "count N"   N tokens "0 ", "1 ", ... with ids 100, 101, ... and logprobs -0.1 * i, then Finished "length"
 *   "hold"      Started and nothing more, until it is cancelled
 *   "nothing"   not even Started
 *   "refuse"    ends INVALID_ARGUMENT
 *   "odd"       ends with a status that does not exist
 *   "garbage"   a Data frame that is no event
 *   "mute"      the whole server falls silent after Started, until fake_speak
 *   else        the prompt itself, word by word; a chat becomes "role: content" lines
 * Owner: one thread runs fake_run; fake_stop and fake_speak may come from another. */
#pragma once
#include <stdatomic.h>

#include "proto/call.h"

struct fake {
    struct bus_context *context;
    struct bus *bus;
    struct call_server *server;
    atomic_bool stop, muted;
    atomic_int cancelled, vanished, live;  /* Generate calls */
    const char *state;                     /* told by Status */
    int loading_polls;                     /* Status says "loading" this many times first */
    const char *folder;                    /* where worker-RANK.pid files appear; NULL: no workers */
    int workers;
};
int  fake_open(struct fake *f, const char *endpoint, struct why *why); /* f zeroed but for the last four */
void fake_run(struct fake *f);                                        /* until fake_stop */
void fake_close(struct fake *f);
static inline void fake_stop(struct fake *f) { atomic_store(&f->stop, true); }
static inline void fake_speak(struct fake *f) { atomic_store(&f->muted, false); }
