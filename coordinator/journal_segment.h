/* journal_segment.h - the files of a journal's folder. Owner of an open segment: one thread.
 *
 *   NNNNNNNNNNNNNNNN.new       being made: never read, removed at the next start
 *   NNNNNNNNNNNNNNNN.journal   the highest number is the journal, lower ones are left over
 *   lock                       held while a coordinator runs
 *
 * A segment is made whole before it gets its name: state written, file synced, renamed, folder synced, and only then are older
 * ones removed. So at every moment one complete segment is there, whatever is interrupted. */
#pragma once
#include "coordinator/journal_scan.h"
#include "coordinator/journal_state.h"

#include <sys/types.h>

/* What is asked of a disk, as the calls of the same names: -1 and errno when it fails. Tests make one that fails. */
struct journal_disk {
    int (*open)(void *ctx, int dir, const char *name); /* new, empty, for writing */
    ssize_t (*write)(void *ctx, int fd, const void *data, size_t n);
    int (*sync)(void *ctx, int fd);
    int (*rename)(void *ctx, int dir, const char *from, const char *to);
    int (*remove)(void *ctx, int dir, const char *name);
    void *ctx;
};
extern const struct journal_disk journal_disk;

struct journal_segment {
    const struct journal_disk *disk;
    int dir, fd; /* -1: none */
    uint64_t number, bytes;
    uint64_t synced, marked; /* bytes on the disk, and as many as the segment says itself */
    bool dirty;              /* written since the last sync */
};

/* Makes DIR if it is not there, and takes its lock, which the returned descriptor holds. ERR_EXISTS: another has it. */
int journal_lock(const char *path, int *dir, int *lock, struct why *why);
/* Reads the newest segment of a folder. ERR_NOT_FOUND: there is none. */
int journal_read(const char *path, bool repair, const struct journal_visitor *v, struct journal_scan *out, struct why *why);

/* A new segment that begins with `state` takes the place of s->number. After a failure nothing may be appended, since the new
 * one may or may not be there: try again. Either way all of `state` that was written before is in whichever is read. */
int journal_segment_turn(struct journal_segment *s, uint64_t fingerprint, struct journal_state *state, struct why *why);
/* Seals and appends whole records. After a failure nothing more may be appended: only a new segment helps. */
int journal_segment_append(struct journal_segment *s, uint8_t *data, size_t len, struct why *why);
int journal_segment_sync(struct journal_segment *s, struct why *why);
void journal_segment_close(struct journal_segment *s); /* the segment only, not dir */
