/* host_mem.c - alloc, release and copies where device memory is host memory.
 *
 * calloc serves large blocks straight from the system, so a KV cache of gigabytes costs nothing until it is written; an
 * aligned allocator followed by memset would touch every page. The block is aligned by hand, and the word before the
 * address handed out remembers what calloc returned. */
#include "kernels/host_mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

void *host_alloc(struct backend *b, size_t bytes, enum mem_kind kind) {
    (void)kind;
    if (bytes > SIZE_MAX - 2 * ALIGN) return NULL;
    char *raw = calloc(1, bytes + 2 * ALIGN);
    if (!raw) return NULL;
    char *p = (char *)(((uintptr_t)raw + 2 * ALIGN - 1) & ~(uintptr_t)(ALIGN - 1)); /* at least ALIGN bytes after raw */
    memcpy(p - sizeof raw, &raw, sizeof raw);
    b->allocated += bytes;
    return p;
}

void host_release(struct backend *b, void *p) {
    (void)b;
    if (!p) return;
    void *raw;
    memcpy(&raw, (char *)p - sizeof raw, sizeof raw);
    free(raw);
}

void host_upload(struct backend *b, void *dst, const void *src_host, size_t bytes) {
    (void)b;
    if (bytes) memcpy(dst, src_host, bytes);
}

void host_download(struct backend *b, void *dst_host, const void *src, size_t bytes) {
    (void)b;
    if (bytes) memcpy(dst_host, src, bytes);
}

void host_sync(struct backend *b) {
    (void)b;
}

const void *host_adopt(struct backend *b, const void *host, size_t bytes) {
    (void)b;
    (void)bytes;
    return host;
}
