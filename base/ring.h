/* ring.h - single-producer single-consumer ring of fixed-size elements: the only way threads meet.
 *
 * Producer thread calls ring_push, consumer thread ring_pop; neither blocks. A push is visible whole or not at all
 * (release/acquire on head). Waking a sleeping consumer is the caller's business (base/bell.h). */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct ring {
    unsigned char *data;
    size_t elem, mask;                                  /* element bytes; capacity - 1 */
    _Alignas(64) atomic_size_t head;                    /* next to write; producer's */
    _Alignas(64) atomic_size_t tail;                    /* next to read; consumer's */
};

int  ring_init(struct ring *r, size_t elem, size_t capacity); /* capacity rounds up to a power of two; 0 or ERR_NOMEM */
void ring_clear(struct ring *r);
bool ring_push(struct ring *r, const void *elem);             /* false: full */
bool ring_pop(struct ring *r, void *elem);                    /* false: empty */
size_t ring_len(const struct ring *r);                        /* a snapshot */
