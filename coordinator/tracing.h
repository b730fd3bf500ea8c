/* tracing.h - one client's recording of routing: asks homes for records, passes them on as that client takes them.
 *
 * Records never hold up a step: homes drop rows when their few blocks are under way, and here chunks are dropped when the
 * client is slower than TRACING_QUEUE_BYTES allow. Both are counted, and the count travels in the trace.
 * Owner: the loop's thread. */
#pragma once
#include "base/list.h"
#include "coordinator/domains.h"
#include "proto/call.h"
#include "proto/trace.h"

enum { TRACING_QUEUE_BYTES = 32 << 20 };

struct tracing {
    struct call *call; /* NULL: nobody records */
    struct trace_shape shape;
    uint8_t layers[TRACE_MAX_LAYERS / 8]; /* for plans: bit i: MoE layer i */
    int n_layers;                         /* bytes of it */
    uint64_t from_step;                   /* records of earlier steps were meant for somebody else */
    struct list queue;                    /* chunks, oldest first */
    size_t queued_bytes;
    int named;     /* domains whose names were queued */
    uint64_t lost; /* rows, not told yet */
};

void tracing_init(struct tracing *t);
void tracing_clear(struct tracing *t);
/* shape: what will be recorded; layers: places of its layers among the MoE layers. ERR_NOMEM */
int tracing_start(struct tracing *t, struct call *call, const struct trace_shape *shape, const int *moe_layers,
                  uint64_t from_step);
void tracing_stop(struct tracing *t); /* the call is over or gone */
/* A home's ROWS of a step. ERR_PROTOCOL: they are not what was asked for. */
int tracing_rows(struct tracing *t, const uint8_t *chunk, size_t len, const struct domains *d, struct why *why);
void tracing_lost(struct tracing *t, uint64_t step, uint64_t rows);
/* The next chunk to send, or NULL; tracing_sent takes it off. */
const uint8_t *tracing_peek(struct tracing *t, size_t *len);
void tracing_sent(struct tracing *t);
