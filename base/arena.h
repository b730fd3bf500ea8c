/* arena.h - bump memory by lifetime (process, epoch, step). Owner: one thread.
 *
 * Memory is handed out zeroed and 64-byte aligned, never freed piece by piece: arena_reset empties the arena and keeps its
 * blocks, arena_clear gives them back. A step arena therefore stops allocating after its largest step. */
#pragma once
#include <stddef.h>

struct arena_block;
struct arena {
    struct arena_block *first, *now;
    size_t block_bytes; /* size of the next block at least */
    size_t used, held;  /* bytes handed out since reset; bytes owned */
};

void  arena_init(struct arena *a, size_t block_bytes);
void  arena_clear(struct arena *a);
void  arena_reset(struct arena *a);
void *arena_alloc(struct arena *a, size_t bytes); /* NULL only when the system is out of memory */
char *arena_strdup(struct arena *a, const char *s, size_t len); /* NUL-terminated copy */
#define arena_array(a, type, n) ((type *)arena_alloc((a), sizeof(type) * (size_t)(n)))
