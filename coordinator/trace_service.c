/* trace_service.c - the Trace call: what to record, and chunks out as credits allow. */
#include <stdio.h>
#include <string.h>

#include "coordinator/core.h"

/* Finds the places of the wanted layers among those with experts; none wanted: all of them. */
static int choose_layers(const struct coordinator *c, const uint32_t *layers, size_t n, struct trace_shape *s, int *moe_layers,
                         struct why *why) {
    bool wanted[MODEL_MAX_LAYERS] = {false};
    for (size_t i = 0; i < n; i++) {
        int at = 0;
        while (at < c->shape.layers && (uint32_t)c->model_layer[at] != layers[i]) at++;
        if (at == c->shape.layers)
            return fail(why, ERR_INVALID, "layer %u has no experts ('cadre experts' lists those that do)", layers[i]);
        wanted[at] = true;
    }
    for (int at = 0; at < c->shape.layers; at++) {
        if (n && !wanted[at]) continue;
        moe_layers[s->layers] = at;
        s->model_layer[s->layers++] = c->model_layer[at];
    }
    return 0;
}

static int open_trace(struct coordinator *c, struct call *call, const uint8_t *payload, size_t len, struct why *why) {
    _Static_assert((int)TRACE_MAX_LAYERS >= (int)MODEL_MAX_LAYERS, "every layer can be recorded");
    const struct gate_rule *g = &c->checkpoint.config.gate;
    struct trace_shape s = {.experts = g->experts, .zero = g->zero, .topk = g->k};
    const uint32_t *layers;
    size_t n;
    int moe_layers[MODEL_MAX_LAYERS];
    int rc = client_port_read_trace(c->client_port, payload, len, &layers, &n, why);
    if (rc < 0) return rc;
    if (!c->shape.layers) return fail(why, ERR_UNSUPPORTED, "this model has no experts: there is nothing to record");
    if (c->tracing.call) return fail(why, ERR_EXHAUSTED, "another client is recording; one at a time");
    snprintf(s.model, sizeof s.model, "%s", c->model_name);
    rc = choose_layers(c, layers, n, &s, moe_layers, why);
    if (rc >= 0) rc = trace_shape_check(&s, why);
    if (rc < 0) return rc;
    rc = tracing_start(&c->tracing, call, &s, moe_layers, c->scheduler.planned + 1);
    return rc < 0 ? fail(why, rc, "out of memory") : 0;
}

void trace_service_flush(struct coordinator *c) {
    struct tracing *t = &c->tracing;
    size_t len;
    const uint8_t *chunk;
    while (t->call && call_can_send(t->call) && (chunk = tracing_peek(t, &len))) {
        size_t n = 0;
        const uint8_t *event = client_port_trace(c->client_port, chunk, len, &n);
        if (!event || call_send(c->calls, t->call, event, n) < 0) return; /* gone: trace_service_gone was called */
        tracing_sent(t);
        c->moved = true;
    }
}

void trace_service_open(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    struct coordinator *c = ctx;
    struct why why;
    c->moved = true;
    int rc = open_trace(c, call, payload, len, &why);
    if (rc < 0) call_end(c->calls, call, call_status_from(rc), why.text);
    else trace_service_flush(c);
}

void trace_service_credit(void *ctx, struct call *call) {
    (void)call;
    trace_service_flush(ctx);
}

void trace_service_gone(void *ctx, struct call *call, int status) {
    struct coordinator *c = ctx;
    (void)status;
    if (c->tracing.call == call) tracing_stop(&c->tracing);
}

void trace_service_end(struct coordinator *c, int status, const char *reason) {
    struct call *call = c->tracing.call;
    if (!call) return;
    tracing_stop(&c->tracing);
    call_end(c->calls, call, status, reason);
}
