/* arena.c - a list of blocks filled front to back. Reset zeroes only what was handed out, lazily, at the next alloc. */
#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

struct arena_block {
    struct arena_block *next;
    size_t size, used;
    unsigned char *data;
};

void arena_init(struct arena *a, size_t block_bytes) {
    *a = (struct arena){.block_bytes = block_bytes < ALIGN ? ALIGN : block_bytes};
}

void arena_clear(struct arena *a) {
    for (struct arena_block *b = a->first, *next; b; b = next) {
        next = b->next;
        free(b->data);
        free(b);
    }
    arena_init(a, a->block_bytes);
}

void arena_reset(struct arena *a) {
    for (struct arena_block *b = a->first; b; b = b->next) b->used = 0;
    a->now = a->first;
    a->used = 0;
}

static struct arena_block *add_block(struct arena *a, size_t bytes) {
    size_t size = bytes > a->block_bytes ? bytes : a->block_bytes;
    struct arena_block *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    b->data = aligned_alloc(ALIGN, size);
    if (!b->data) {
        free(b);
        return NULL;
    }
    b->size = size;
    if (a->now) { /* keep the list: blocks after `now` are empty and may still be used */
        b->next = a->now->next;
        a->now->next = b;
    } else {
        a->first = b;
    }
    a->held += size;
    return b;
}

void *arena_alloc(struct arena *a, size_t bytes) {
    if (bytes > SIZE_MAX - ALIGN) return NULL;
    size_t need = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (!need) need = ALIGN;
    struct arena_block *b = a->now;
    while (b && b->size - b->used < need && b->next) b = a->now = b->next;
    if (!b || b->size - b->used < need) {
        size_t round = (a->block_bytes + ALIGN - 1) / ALIGN * ALIGN;
        b = add_block(a, need > round ? need : round);
        if (!b) return NULL;
        a->now = b;
    }
    void *p = b->data + b->used;
    b->used += need;
    a->used += need;
    return memset(p, 0, need);
}

char *arena_strdup(struct arena *a, const char *s, size_t len) {
    char *copy = arena_alloc(a, len + 1);
    if (copy && len) memcpy(copy, s, len);
    return copy;
}
