/* journal.h - the coordinator's memory beyond its own life: requests and their tokens in an append-only, checksummed file
 * (docs/JOURNAL.md), written by a thread of its own so that no disk ever holds up a step.
 *
 *   put* ─► buffer ══ flush ══► thread: apply to its state, seal, write, sync ══ news ══► poll: journal_written() moves
 *
 * Two buffers change hands: while the thread writes one, the loop fills the other, so what comes during a write goes out in
 * one. The thread follows its own records (journal_state.h); a new segment is that state, and needs nothing of the loop.
 *
 *            write, sync or new segment fails
 *   WRITING ---------------------------------> FAILED: new requests are refused, running ones go on
 *      ^                                          |     tried again every retry_us, with a new segment: after an error nobody
 *      +------------- a new segment --------------+     knows what of the old one the disk has
 *
 * While it has failed, or lags by more than lag_bytes, tokens are not written down: they can be computed again. Whatever else
 * has to be said of requests that run is kept in memory until it can be written; there is little of it. Owner of every
 * function: the coordinator's loop. */
#pragma once
#include "coordinator/journal_segment.h"

enum journal_sync {
    JOURNAL_SYNC_INTERVAL, /* at most sync_us after writing: a power loss costs what was accepted since */
    JOURNAL_SYNC_ALWAYS,   /* before a request counts as accepted: a power loss costs nothing */
    JOURNAL_SYNC_NEVER     /* when the system likes to */
};
/* A killed process loses nothing with any of them: what was written is the kernel's. */

struct journal_options {
    const char *dir;
    enum journal_sync sync;
    int64_t sync_us;        /* 0 = 100 ms */
    uint64_t segment_bytes; /* a segment is replaced when it is larger, and four times what it would be anew; 0 = 64 MiB */
    size_t lag_bytes;       /* 0 = 64 MiB */
    int64_t stall_us;       /* a write that takes longer is a fault; 0 = 5 s */
    int64_t retry_us;       /* after a failure; 0 = 1 s */
    uint64_t fingerprint;   /* of the model */
    const char *model;      /* its name, for people */
    bool repair;            /* go on without what is damaged */
    const struct journal_disk *disk; /* NULL: the real one */
};
struct journal_stats {
    uint64_t records, bytes, syncs, segments, failures, dropped; /* dropped: tokens that were not written down */
    uint64_t segment_bytes, live;                                /* live: requests in it */
    uint64_t lag_bytes;                                          /* put and not written */
    int64_t lag_us;                                              /* how long the oldest of that has waited */
    bool failed;
};

struct journal;
/* Locks the folder and reads what is there. Nothing is written yet. ERR_CORRUPT, ERR_EXISTS (in use), ERR_INVALID (live
 * requests of another model), ERR_IO: with the reason and what to do. */
int journal_open(const struct journal_options *o, struct journal **out, struct why *why);
/* What was read, to be changed as wanted (counters above all: those of the new life) before journal_start, and not touched
 * after. */
struct journal_state *journal_replayed(struct journal *j);
/* A first segment of its own, synced, and the thread. */
int journal_start(struct journal *j, struct why *why);
void journal_close(struct journal *j); /* writes and syncs what is there, if the disk lets it; NULL is fine */

/* May a request be accepted? 0, ERR_GONE (failed or stalled) or ERR_EXHAUSTED (behind) with a reason for the client. */
int journal_admits(const struct journal *j, int64_t now_us, struct why *why);
/* Appends; a record's number to compare with journal_written, or 0: out of memory. */
uint64_t journal_append(struct journal *j, const struct journal_record *r, int64_t now_us);
/* A step's tokens in one record: begin, any number of tokens, end. Never fails: what cannot be kept is dropped and counted. */
void journal_step(struct journal *j, uint64_t step, int64_t now_us);
void journal_step_token(struct journal *j, const struct journal_token *t);
void journal_step_end(struct journal *j);
void journal_flush(struct journal *j, int64_t now_us); /* at the end of a pass: hands over what there is */

/* Takes the thread's news: true when there was some. journal_fd is readable then. */
bool journal_poll(struct journal *j);
int journal_fd(const struct journal *j);
uint64_t journal_written(const struct journal *j); /* records up to here are as safe as `sync` says */
bool journal_failed(const struct journal *j, struct why *why);
void journal_get_stats(const struct journal *j, int64_t now_us, struct journal_stats *out);
