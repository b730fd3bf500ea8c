/* count.c - the "count" backend: a device without memory or arithmetic, for asking how much a program would allocate.
 *
 * Addresses are real but hold nothing: device memory cannot be touched at all, host-visible memory costs nothing until it is
 * written. The word in front of each block remembers its length. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/kernels.h"

enum { FRONT = 4096 }; /* a page of its own for the length */

static void *count_alloc(struct backend *b, size_t bytes, enum mem_kind kind) {
    if (bytes > SIZE_MAX / 2) return NULL;
    size_t all = FRONT + bytes, open = kind == MEM_HOST_VISIBLE ? all : FRONT;
    char *p = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (mprotect(p, open, PROT_READ | PROT_WRITE) < 0) {
        munmap(p, all);
        return NULL;
    }
    memcpy(p, &all, sizeof all);
    b->allocated += bytes;
    return p + FRONT;
}

static void count_release(struct backend *b, void *p) {
    (void)b;
    if (!p) return;
    size_t all;
    char *front = (char *)p - FRONT;
    memcpy(&all, front, sizeof all);
    munmap(front, all);
}

static void count_upload(struct backend *b, void *dst, const void *src_host, size_t bytes) {
    (void)b, (void)dst, (void)src_host, (void)bytes;
}

static void count_download(struct backend *b, void *dst_host, const void *src, size_t bytes) {
    (void)b, (void)src;
    if (bytes) memset(dst_host, 0, bytes);
}

static void count_sync(struct backend *b) { (void)b; }

static const void *count_adopt(struct backend *b, const void *host, size_t bytes) {
    (void)b, (void)bytes;
    return host;
}

static void count_close(struct backend *b) { free(b); }

static const struct ops count_ops = {.name = "count",
                                     .alloc = count_alloc,
                                     .release = count_release,
                                     .upload = count_upload,
                                     .download = count_download,
                                     .sync = count_sync,
                                     .adopt = count_adopt,
                                     .close = count_close};

int backend_open_count(struct backend **out, struct why *why) {
    struct backend *b = calloc(1, sizeof *b);
    if (!b) return fail(why, ERR_NOMEM, "out of memory");
    b->ops = &count_ops;
    b->threads = 1;
    *out = b;
    return 0;
}
