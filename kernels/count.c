/* count.c - the "count" backend: a device without memory or arithmetic, for asking how much a program would allocate.
 *
 * Addresses are real but hold nothing. Device memory is cut from one reservation of address space that cannot be touched;
 * where there is no such space, and for host-visible memory, each block is a mapping of its own, whose first page remembers
 * its length. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/kernels.h"

enum { FRONT = 4096, ALIGN = 64 };
static const size_t SPACE = (size_t)16 << 40;

struct count {
    struct backend base;
    char *space; /* NULL: none was to be had */
    size_t used;
};
static struct count *count_of(struct backend *b) { return (struct count *)b; }

static void *reserve(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void *map_block(size_t bytes, enum mem_kind kind) {
    size_t all = FRONT + bytes, open = kind == MEM_HOST_VISIBLE ? all : FRONT;
    char *p = reserve(all);
    if (!p) return NULL;
    if (mprotect(p, open, PROT_READ | PROT_WRITE) < 0) {
        munmap(p, all);
        return NULL;
    }
    memcpy(p, &all, sizeof all);
    return p + FRONT;
}

static void *count_alloc(struct backend *b, size_t bytes, enum mem_kind kind) {
    struct count *c = count_of(b);
    if (bytes > SIZE_MAX / 2) return NULL;
    size_t room = (bytes + ALIGN) / ALIGN * ALIGN;
    bool cut = kind == MEM_DEVICE && c->space && room <= SPACE - c->used;
    void *p = cut ? c->space + c->used : map_block(bytes, kind);
    if (!p) return NULL;
    if (cut) c->used += room;
    b->allocated += bytes;
    return p;
}

static void count_release(struct backend *b, void *p) {
    const struct count *c = count_of(b);
    if (!p || (c->space && (char *)p >= c->space && (char *)p < c->space + SPACE)) return;
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

static void count_close(struct backend *b) {
    if (count_of(b)->space) munmap(count_of(b)->space, SPACE);
    free(b);
}

static const struct ops count_ops = {.name = "count",
                                     .alloc = count_alloc,
                                     .release = count_release,
                                     .upload = count_upload,
                                     .download = count_download,
                                     .sync = count_sync,
                                     .adopt = count_adopt,
                                     .close = count_close};

int backend_open_count(struct backend **out, struct why *why) {
    struct count *c = calloc(1, sizeof *c);
    if (!c) return fail(why, ERR_NOMEM, "out of memory");
    c->base = (struct backend){.ops = &count_ops, .threads = 1};
    c->space = reserve(SPACE);
    *out = &c->base;
    return 0;
}
