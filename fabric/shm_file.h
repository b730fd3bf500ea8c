/* shm_file.h - one rank's shared memory and doorbell, and how processes of the same host get at them.
 *
 * A rank owns one memory file (memfd: it has no name, so nothing can be left behind in /dev/shm and nobody's limits on that
 * mount apply) and one pipe. Its address says which process has them open under which numbers; a peer opens them through
 * /proc. The file begins with a head; after it come areas of equal size, one per incarnation of whoever writes there:
 *
 *   head | area of incarnation 0 | of 1 | of 2 | ...         sparse: what was never written takes no memory
 *
 * so a process that was declared dead and is not, or dies in the middle of a write, only ever touches an area that nobody else
 * uses. Only its owner sizes the file, and it is sealed against shrinking: a mapping that was inside it once stays so.
 * Peers are trusted to be Cadre workers of the same user, not to be right or alive: nothing in the head is used as a size or
 * an index. Owner: the thread of the fabric's handle. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "fabric/doorbell.h"

struct shm_head { /* first page of the file, mapped by everyone */
    uint64_t magic, nonce;
    atomic_uint_fast64_t frame_bytes; /* 0 until the rank is prepared */
    _Alignas(64) struct doorbell door;
};

struct shm_file {          /* own */
    int rank, fd, bell[2]; /* bell: pipe, read end and write end */
    uint64_t nonce;
    struct shm_head *head;
    uint64_t bytes; /* size of the file */
};

struct shm_peer { /* somebody else's, opened */
    int fd, bell;
    struct shm_head *head; /* NULL: not open */
};

int shm_file_open(struct shm_file *f, int rank, struct why *why);
void shm_file_close(struct shm_file *f);
size_t shm_file_address(const struct shm_file *f, void *out); /* at most FABRIC_ADDRESS_BYTES */
/* Makes the file at least so large. ERR_NOMEM */
int shm_file_grow(struct shm_file *f, uint64_t bytes, struct why *why);
/* Gives the memory of a range of whole pages back; it reads as zeros afterwards. */
void shm_file_punch(struct shm_file *f, uint64_t at, uint64_t bytes);

/* 1: open; 0: that process, or its file, is not there any more (logged); ERR_PROTOCOL: no address of ours; ERR_UNSUPPORTED:
 * another host; ERR_DENIED: another user; ERR_IO. */
int shm_peer_open(struct shm_peer *p, int rank, const void *address, size_t bytes, struct why *why);
void shm_peer_close(struct shm_peer *p); /* harmless when not open */
void shm_peer_ring(struct shm_peer *p);  /* there is news for it */

size_t shm_page(void);
static inline uint64_t shm_pages(uint64_t bytes) { return (bytes + shm_page() - 1) / shm_page() * shm_page(); }
/* A shared mapping of a range that lies inside the file, or NULL. */
void *shm_map(int fd, uint64_t at, size_t bytes);
bool shm_has(int fd, uint64_t bytes); /* the file is at least so large */
