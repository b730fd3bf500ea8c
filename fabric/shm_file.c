/* shm_file.c - the memory file, the pipe beside it, and the way to other processes' through /proc. */
#include "fabric/shm_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fabric/fabric.h"
#include "fabric/host.h"

enum { VERSION = 2, SEALS = F_SEAL_SHRINK };
#define ADDRESS_MAGIC UINT64_C(0x316d687365726461)
#define HEAD_MAGIC    UINT64_C(0x646165686d687363)

struct shm_address { /* same host: its own byte order */
    uint64_t magic;
    uint32_t version, rank;
    int32_t pid, fd, bell;
    uint32_t uid;
    uint64_t started;         /* of the process, in ticks since boot: a number that was given again is noticed */
    uint64_t nonce;           /* repeated in the file's head */
    char host[HOST_ID_BYTES]; /* processes see each other's /proc entries on the same one only */
};
_Static_assert(sizeof(struct shm_address) <= FABRIC_ADDRESS_BYTES, "an address fits");

size_t shm_page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

void *shm_map(int fd, uint64_t at, size_t bytes) {
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)at);
    return map == MAP_FAILED ? NULL : map;
}

bool shm_has(int fd, uint64_t bytes) {
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= 0 && (uint64_t)st.st_size >= bytes;
}

/* ---- own ---- */

int shm_file_open(struct shm_file *f, int rank, struct why *why) {
    *f = (struct shm_file){.rank = rank, .fd = -1, .bell = {-1, -1}};
    f->fd = memfd_create("cadre-fabric", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (f->fd < 0) return fail(why, ERR_IO, "fabric shm: no memory file: %s", strerror(errno));
    if (pipe2(f->bell, O_CLOEXEC | O_NONBLOCK) < 0) {
        int error = errno;
        shm_file_close(f);
        return fail(why, ERR_IO, "fabric shm: no pipe: %s", strerror(error));
    }
    int rc = shm_file_grow(f, shm_page(), why);
    if (rc >= 0 && fcntl(f->fd, F_ADD_SEALS, SEALS) < 0)
        rc = fail(why, ERR_IO, "fabric shm: the memory file cannot be sealed: %s", strerror(errno));
    if (rc >= 0 && getrandom(&f->nonce, sizeof f->nonce, 0) != (ssize_t)sizeof f->nonce)
        rc = fail(why, ERR_IO, "fabric shm: no random number: %s", strerror(errno));
    if (rc >= 0 && !(f->head = shm_map(f->fd, 0, shm_page())))
        rc = fail(why, ERR_NOMEM, "fabric shm: the head of the memory file cannot be mapped: %s", strerror(errno));
    if (rc < 0) {
        shm_file_close(f);
        return rc;
    }
    f->head->nonce = f->nonce;
    f->head->magic = HEAD_MAGIC;
    return 0;
}

void shm_file_close(struct shm_file *f) {
    if (f->head) munmap(f->head, shm_page());
    if (f->fd >= 0) close(f->fd);
    for (int i = 0; i < 2; i++)
        if (f->bell[i] >= 0) close(f->bell[i]);
    *f = (struct shm_file){.fd = -1, .bell = {-1, -1}};
}

int shm_file_grow(struct shm_file *f, uint64_t bytes, struct why *why) {
    struct rlimit limit; /* beyond it the kernel would not refuse but end the process */
    if (bytes <= f->bytes) return 0;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur)
        return fail(why, ERR_NOMEM,
                    "fabric shm: the memory file needs %llu bytes of address space, the limit on file sizes is %llu: "
                    "raise it (ulimit -f)",
                    (unsigned long long)bytes, (unsigned long long)limit.rlim_cur);
    if (bytes > INT64_MAX || ftruncate(f->fd, (off_t)bytes) < 0)
        return fail(why, ERR_NOMEM,
                    "fabric shm: the memory file cannot have %llu bytes of address space: %s; lower the largest "
                    "step",
                    (unsigned long long)bytes, bytes > INT64_MAX ? "too many" : strerror(errno));
    f->bytes = bytes;
    return 0;
}

void shm_file_punch(struct shm_file *f, uint64_t at, uint64_t bytes) {
    if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) < 0)
        log_warn("fabric shm: memory of a former peer cannot be given back: %s", strerror(errno));
}

/* ---- processes ---- */

static bool read_text(const char *path, char *out, size_t room) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, out, room - 1);
    close(fd);
    if (n < 0) return false;
    out[n] = 0;
    return true;
}

/* When a process started; 0 when there is none, or only what its parent has yet to bury. The name, in brackets, may hold
 * anything; behind it come the state and, as the 20th field, the start time. */
static uint64_t started_at(int32_t pid) {
    char path[32], text[1024], *p;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (!read_text(path, text, sizeof text) || !(p = strrchr(text, ')'))) return 0;
    if (!strncmp(p, ") Z", 3) || !strncmp(p, ") X", 3)) return 0;
    for (int field = 0; field < 20 && p; field++) p = strchr(p + 1, ' ');
    return p ? strtoull(p, NULL, 10) : 0;
}

static bool is_there(const struct shm_address *a) { return a->started && started_at(a->pid) == a->started; }

size_t shm_file_address(const struct shm_file *f, void *out) {
    struct shm_address a = {.magic = ADDRESS_MAGIC,
                            .version = VERSION,
                            .rank = (uint32_t)f->rank,
                            .pid = (int32_t)getpid(),
                            .fd = f->fd,
                            .bell = f->bell[1],
                            .uid = (uint32_t)geteuid(),
                            .nonce = f->nonce};
    a.started = started_at(a.pid);
    fabric_host_id(a.host);
    memcpy(out, &a, sizeof a);
    return sizeof a;
}

/* ---- others ---- */

static int check_address(const struct shm_address *a, int rank, struct why *why) {
    char own[HOST_ID_BYTES] = {0};
    fabric_host_id(own);
    if (a->magic != ADDRESS_MAGIC || a->version != VERSION || a->pid < 1 || a->fd < 0 || a->bell < 0)
        return fail(why, ERR_PROTOCOL,
                    "fabric shm: what rank %d gave is no address of this version: run the same cadre-worker "
                    "everywhere",
                    rank);
    if (a->rank != (uint32_t)rank)
        return fail(why, ERR_PROTOCOL, "fabric shm: the address of rank %d says that it is of rank %u", rank, a->rank);
    if (memcmp(a->host, own, sizeof own) != 0)
        return fail(
            why, ERR_UNSUPPORTED,
            "fabric shm: rank %d runs on another host (%.*s, this is %s; containers that do not share a PID namespace are "
            "hosts of their own): use --fabric auto or ucx",
            rank, HOST_ID_BYTES - 1, a->host, own);
    return 0;
}

static int gone(const struct shm_address *a, const char *what) {
    log_warn("fabric shm: rank %u cannot be reached, %s (process %d); it counts as silent", a->rank, what, a->pid);
    return 0;
}

/* Opens what a process has open under a number. 1, 0 when it is gone, ERR_*. */
static int open_of(const struct shm_address *a, int32_t number, int *out, struct why *why) {
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", a->pid, number);
    *out = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC); /* a pipe's writer that can read gets no SIGPIPE */
    if (*out >= 0) return 1;
    int error = errno;
    if (error == ENOENT || error == ESRCH || error == ENXIO || !is_there(a))
        return gone(a, "it has ended or closed its fabric");
    if (error == EACCES || error == EPERM)
        return fail(why, ERR_DENIED,
                    "fabric shm: this process (user %u) may not open what rank %u (process %d, user %u) shares: "
                    "start all workers of a host as the same user, or use --fabric ucx",
                    (unsigned)geteuid(), a->rank, a->pid, a->uid);
    return fail(why, ERR_IO, "fabric shm: %s of rank %u: %s", path, a->rank, strerror(error));
}

/* Is what was opened what the address meant? Its number may have been given to something else since. */
static bool is_meant(const struct shm_peer *p, const struct shm_address *a) {
    struct stat st;
    int seals = fcntl(p->fd, F_GET_SEALS);
    if (!shm_has(p->fd, shm_page()) || seals < 0 || (seals & SEALS) != SEALS) return false;
    if (fstat(p->bell, &st) < 0 || !S_ISFIFO(st.st_mode)) return false;
    return p->head && p->head->magic == HEAD_MAGIC && p->head->nonce == a->nonce;
}

int shm_peer_open(struct shm_peer *p, int rank, const void *address, size_t bytes, struct why *why) {
    struct shm_address a;
    *p = (struct shm_peer){.fd = -1, .bell = -1};
    if (bytes != sizeof a)
        return fail(why, ERR_PROTOCOL,
                    "fabric shm: an address of %zu bytes from rank %d, expected %zu: run the same cadre-worker "
                    "everywhere",
                    bytes, rank, sizeof a);
    memcpy(&a, address, sizeof a);
    int rc = check_address(&a, rank, why);
    if (rc < 0) return rc;
    if (!is_there(&a)) return gone(&a, "its process is not there any more");
    rc = open_of(&a, a.fd, &p->fd, why);
    if (rc > 0) rc = open_of(&a, a.bell, &p->bell, why);
    if (rc > 0) {
        if (shm_has(p->fd, shm_page())) p->head = shm_map(p->fd, 0, shm_page());
        if (!is_meant(p, &a)) rc = gone(&a, "it has closed its fabric");
    }
    if (rc <= 0) shm_peer_close(p);
    return rc;
}

void shm_peer_close(struct shm_peer *p) {
    if (p->head) munmap(p->head, shm_page());
    if (p->fd >= 0) close(p->fd);
    if (p->bell >= 0) close(p->bell);
    *p = (struct shm_peer){.fd = -1, .bell = -1};
}

void shm_peer_ring(struct shm_peer *p) {
    if (!doorbell_raise(&p->head->door)) return;
    ssize_t n = write(p->bell, "", 1); /* fails only when the pipe is full of rings */
    (void)n;
}
