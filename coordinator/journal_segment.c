/* journal_segment.c - the real disk, and what is asked of any. */
#include "coordinator/journal_segment.h"

#include "base/clk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_BYTES = 32, DIGITS = 16, READ_AGAIN = 8 };

/* ---- the disk ---- */
static int disk_open(void *ctx, int dir, const char *name) {
    (void)ctx;
    return openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600); /* prompts are nobody else's business */
}
static ssize_t disk_write(void *ctx, int fd, const void *data, size_t n) {
    (void)ctx;
    return write(fd, data, n);
}
static int disk_sync(void *ctx, int fd) {
    (void)ctx;
    return fsync(fd);
}
static int disk_rename(void *ctx, int dir, const char *from, const char *to) {
    (void)ctx;
    return renameat(dir, from, dir, to);
}
static int disk_remove(void *ctx, int dir, const char *name) {
    (void)ctx;
    return unlinkat(dir, name, 0);
}
const struct journal_disk journal_disk = {disk_open, disk_write, disk_sync, disk_rename, disk_remove, NULL};

/* ---- the folder ---- */
int journal_lock(const char *path, int *dir, int *lock, struct why *why) {
    *lock = -1;
    if (mkdir(path, 0700) && errno != EEXIST) return fail(why, ERR_IO, "cannot make the journal's folder %s: %m", path);
    *dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*dir < 0) return fail(why, ERR_IO, "cannot open the journal's folder %s: %m", path);
    *lock = openat(*dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (*lock >= 0 && !flock(*lock, LOCK_EX | LOCK_NB)) return 0;
    int rc = errno == EWOULDBLOCK ? ERR_EXISTS : ERR_IO;
    if (rc == ERR_EXISTS) fail(why, rc, "the journal in %s belongs to another coordinator, which is running", path);
    else fail(why, rc, "cannot lock the journal in %s: %m", path);
    if (*lock >= 0) close(*lock);
    close(*dir);
    *dir = *lock = -1;
    return rc;
}

static void name_of(uint64_t number, const char *suffix, char out[NAME_BYTES]) {
    snprintf(out, NAME_BYTES, "%016" PRIx64 "%s", number, suffix);
}

/* The number in "NNNNNNNNNNNNNNNN.suffix", or 0. */
static uint64_t number_in(const char *name, const char *suffix) {
    char want[NAME_BYTES];
    if (strlen(name) < DIGITS) return 0;
    uint64_t n = strtoull(name, NULL, 16);
    name_of(n, suffix, want);
    return strcmp(name, want) ? 0 : n;
}

static uint64_t newest_in(DIR *d) {
    uint64_t newest = 0;
    for (struct dirent *e; (e = readdir(d));) {
        uint64_t n = number_in(e->d_name, ".journal");
        if (n > newest) newest = n;
    }
    return newest;
}

/* Read, not mapped: a disk that fails answers a read with an error, and a mapping with a signal. */
static int read_segment(int fd, bool repair, const struct journal_visitor *v, struct journal_scan *out, struct why *why) {
    struct stat st;
    if (fstat(fd, &st)) return fail(why, ERR_IO, "cannot read it: %m");
    size_t len = (size_t)st.st_size, have = 0;
    uint8_t *data = malloc(len + 1);
    if (!data) return fail(why, ERR_NOMEM, "out of memory for its %zu bytes", len);
    ssize_t n = 1;
    while (have < len && ((n = read(fd, data + have, len - have)) > 0 || (n < 0 && errno == EINTR)))
        have += n > 0 ? (size_t)n : 0;
    int rc = n < 0 ? fail(why, ERR_IO, "cannot read on at byte %zu of %zu: %m", have, len)
                   : journal_scan(data, have, repair, v, out, why);
    free(data);
    return rc;
}

int journal_read(const char *path, bool repair, const struct journal_visitor *v, struct journal_scan *out, struct why *why) {
    char name[NAME_BYTES];
    memset(out, 0, sizeof *out);
    for (int tries = 0; tries < READ_AGAIN; tries++) { /* a reader without the lock may find the newest one gone */
        DIR *d = opendir(path);
        if (!d) return fail(why, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open the journal's folder %s: %m", path);
        uint64_t newest = newest_in(d);
        name_of(newest, ".journal", name);
        int fd = newest ? openat(dirfd(d), name, O_RDONLY | O_CLOEXEC) : -1, error = errno;
        closedir(d);
        if (!newest) return fail(why, ERR_NOT_FOUND, "there is no journal in %s", path);
        if (fd < 0 && error == ENOENT) continue;
        errno = error;
        if (fd < 0) return fail(why, ERR_IO, "%s/%s: %m", path, name);
        int rc = read_segment(fd, repair, v, out, why);
        close(fd);
        if (rc >= 0 && out->header.segment != newest)
            rc = fail(why, ERR_CORRUPT, "says that it is segment %" PRIx64, out->header.segment);
        return rc < 0 ? fail_in(why, rc, "%s/%s", path, name) : rc;
    }
    return fail(why, ERR_AGAIN, "%s: the journal changes faster than it can be read", path);
}

/* ---- writing ---- */
static int write_all(const struct journal_disk *disk, int fd, const uint8_t *data, size_t len) {
    for (size_t at = 0; at < len;) {
        ssize_t n = disk->write(disk->ctx, fd, data + at, len - at);
        if (n > 0) at += (size_t)n;
        else if (n < 0 && errno == EINTR) continue;
        else {
            if (!n) errno = ENOSPC;
            return ERR_IO;
        }
    }
    return 0;
}

static int append(struct journal_segment *s, uint8_t *data, size_t len, struct why *why) {
    journal_seal(data, len, s->number, s->bytes);
    s->dirty = true;
    if (write_all(s->disk, s->fd, data, len) < 0) return fail(why, ERR_IO, "cannot write: %m");
    s->bytes += len;
    return 0;
}

/* Goes with the next records, never alone: an idle journal would write marks, sync them, and write marks of that. */
static int mark_synced(struct journal_segment *s, struct why *why) {
    struct journal_bytes b = {0};
    if (s->marked == s->synced) return 0;
    int rc = journal_put(&b, &(struct journal_record){.kind = JOURNAL_SYNCED, .synced = s->synced});
    rc = rc < 0 ? fail(why, rc, "out of memory for a record") : append(s, b.data, b.len, why);
    journal_bytes_clear(&b);
    if (rc >= 0) s->marked = s->synced;
    return rc;
}

int journal_segment_append(struct journal_segment *s, uint8_t *data, size_t len, struct why *why) {
    int rc = mark_synced(s, why);
    return rc < 0 ? rc : append(s, data, len, why);
}

int journal_segment_sync(struct journal_segment *s, struct why *why) {
    if (!s->dirty) return 0;
    if (s->disk->sync(s->disk->ctx, s->fd)) return fail(why, ERR_IO, "cannot sync: %m");
    s->dirty = false;
    s->synced = s->bytes;
    return 0;
}

/* Everything but the newest, and what was being made. A file that stays is in nobody's way. */
static void sweep(const struct journal_segment *s) {
    int fd = dup(s->dir);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0) close(fd);
        return;
    }
    rewinddir(d); /* the descriptor's position is shared */
    for (struct dirent *e; (e = readdir(d));) {
        uint64_t n = number_in(e->d_name, ".journal");
        if ((n && n < s->number) || number_in(e->d_name, ".new")) s->disk->remove(s->disk->ctx, s->dir, e->d_name);
    }
    closedir(d);
}

/* The file under its temporary name: written and synced. Its descriptor, or -1. */
static int make(const struct journal_segment *s, const char *name, const struct journal_header *h,
                const struct journal_bytes *base) {
    uint8_t header[JOURNAL_HEADER_BYTES];
    const struct journal_disk *disk = s->disk;
    journal_make_header(h, header);
    int fd = disk->open(disk->ctx, s->dir, name);
    if (fd < 0) return -1;
    if (write_all(disk, fd, header, sizeof header) >= 0 && write_all(disk, fd, base->data, base->len) >= 0 &&
        !disk->sync(disk->ctx, fd))
        return fd;
    int error = errno;
    close(fd);
    disk->remove(disk->ctx, s->dir, name);
    errno = error;
    return -1;
}

/* The folder is synced after the rename; if that fails the new name may vanish with the power, so the old segment stays until
 * the next turn and the new one is not used. */
static int name_it(const struct journal_segment *s, uint64_t number, const char *from) {
    char name[NAME_BYTES];
    name_of(number, ".journal", name);
    if (s->disk->rename(s->disk->ctx, s->dir, from, name)) return -1;
    return s->disk->sync(s->disk->ctx, s->dir);
}

int journal_segment_turn(struct journal_segment *s, uint64_t fingerprint, struct journal_state *state, struct why *why) {
    struct journal_bytes base = {0};
    char name[NAME_BYTES];
    struct journal_header h = {.segment = ++s->number, .fingerprint = fingerprint, .created_us = clk_unix_us()};
    if (journal_state_dump(state, h.created_us, &base) < 0) {
        journal_bytes_clear(&base);
        return fail(why, ERR_NOMEM, "out of memory for a new segment");
    }
    h.base_bytes = JOURNAL_HEADER_BYTES + base.len;
    journal_seal(base.data, base.len, h.segment, JOURNAL_HEADER_BYTES);
    name_of(h.segment, ".new", name);
    int fd = make(s, name, &h, &base);
    journal_bytes_clear(&base);
    if (fd < 0) return fail(why, ERR_IO, "cannot make a new segment: %m");
    if (name_it(s, h.segment, name) < 0) {
        fail(why, ERR_IO, "cannot put a new segment in place: %m");
        close(fd);
        return ERR_IO;
    }
    journal_segment_close(s);
    s->fd = fd;
    s->bytes = s->synced = s->marked = h.base_bytes;
    s->dirty = false;
    sweep(s);
    return 0;
}

void journal_segment_close(struct journal_segment *s) {
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
}
