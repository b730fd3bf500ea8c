/* tracing.c - a bounded queue of chunks between homes and the client that records. */
#include "coordinator/tracing.h"

#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = TRACE_CHUNK_HEAD + 4 + TRACE_NAME_BYTES };

struct item {
    struct list node;
    size_t len;
    uint8_t bytes[];
};

void tracing_init(struct tracing *t) {
    *t = (struct tracing){0};
    list_init(&t->queue);
}

static void pop(struct tracing *t) {
    struct item *i = list_entry(t->queue.next, struct item, node);
    list_remove(&i->node);
    t->queued_bytes -= i->len;
    free(i);
}

void tracing_stop(struct tracing *t) {
    while (!list_empty(&t->queue)) pop(t);
    t->call = NULL;
    t->n_layers = t->named = 0;
    t->lost = 0;
}

void tracing_clear(struct tracing *t) {
    if (t->queue.next) tracing_stop(t);
}

static bool push(struct tracing *t, const uint8_t *bytes, size_t len) {
    struct item *i = t->queued_bytes + len > TRACING_QUEUE_BYTES ? NULL : malloc(sizeof *i + len);
    if (!i) return false;
    i->len = len;
    memcpy(i->bytes, bytes, len);
    list_append(&t->queue, &i->node);
    t->queued_bytes += len;
    return true;
}

int tracing_start(struct tracing *t, struct call *call, const struct trace_shape *shape, const int *moe_layers,
                  uint64_t from_step) {
    uint8_t head[TRACE_CHUNK_HEAD + 64 + 4 * TRACE_MAX_LAYERS + sizeof shape->model];
    size_t len = trace_make_head(head, sizeof head, shape);
    if (!len || !push(t, head, len)) return ERR_NOMEM;
    t->call = call;
    t->shape = *shape;
    t->from_step = from_step;
    t->named = 1;
    memset(t->layers, 0, sizeof t->layers);
    for (int i = 0; i < shape->layers; i++) t->layers[moe_layers[i] / 8] |= (uint8_t)(1u << (moe_layers[i] % 8));
    t->n_layers = moe_layers[shape->layers - 1] / 8 + 1;
    return 0;
}

/* Names and losses go before the rows that follow them, and only with them. */
static bool push_names(struct tracing *t, const struct domains *d) {
    uint8_t chunk[NAME_BYTES];
    for (; t->named < d->n; t->named++)
        if (!push(t, chunk, trace_make_name(chunk, sizeof chunk, (uint32_t)t->named, d->name[t->named]))) return false;
    if (t->lost && push(t, chunk, trace_make_lost(chunk, sizeof chunk, t->lost))) t->lost = 0;
    return true;
}

int tracing_rows(struct tracing *t, const uint8_t *bytes, size_t len, const struct domains *d, struct why *why) {
    struct trace_chunk chunk;
    if (!t->call) return 0;
    int rc = trace_parse_rows(bytes, len, &t->shape, &chunk, why);
    if (chunk.step && chunk.step < t->from_step) return 0; /* asked for by an earlier call, perhaps in another shape */
    if (rc < 0) return rc == ERR_CORRUPT ? ERR_PROTOCOL : rc;
    bool room = t->queued_bytes + len + TRACE_DOMAINS * NAME_BYTES <= TRACING_QUEUE_BYTES;
    if (!room || !push_names(t, d) || !push(t, bytes, len)) t->lost += chunk.n;
    return 0;
}

void tracing_lost(struct tracing *t, uint64_t step, uint64_t rows) {
    uint8_t chunk[TRACE_CHUNK_HEAD + 8];
    if (!t->call || step < t->from_step || !rows) return;
    t->lost += rows;
    if (push(t, chunk, trace_make_lost(chunk, sizeof chunk, t->lost))) t->lost = 0;
}

const uint8_t *tracing_peek(struct tracing *t, size_t *len) {
    if (list_empty(&t->queue)) return NULL;
    const struct item *i = list_entry(t->queue.next, struct item, node);
    *len = i->len;
    return i->bytes;
}

void tracing_sent(struct tracing *t) { pop(t); }
