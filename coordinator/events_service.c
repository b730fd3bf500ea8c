/* events_service.c - the Events call: each reader has its own place among the events, so a slow one keeps nobody waiting; what
 * is overwritten before it came to it is missing in its numbers. */
#include <stdlib.h>

#include "base/clk.h"
#include "coordinator/core.h"

enum { MAX_READERS = 64 };

struct event_reader {
    struct list node;
    struct call *call;
    uint64_t after; /* the last one sent */
    bool follow;
};

struct event *core_event(struct coordinator *c, enum event_kind kind, int rank, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    struct event *e = events_add(&c->events, clk_unix_us(), kind, rank, fmt, ap);
    va_end(ap);
    c->moved = true;
    return e;
}

static void free_reader(struct coordinator *c, struct event_reader *r) {
    list_remove(&r->node);
    c->n_readers--;
    free(r);
}

static void end_reader(struct coordinator *c, struct event_reader *r, int status, const char *message) {
    struct call *call = r->call;
    free_reader(c, r);
    call_end(c->calls, call, status, message);
    c->moved = true;
}

/* May free r. */
static void flush_reader(struct coordinator *c, struct event_reader *r) {
    const struct event *e;
    while ((e = events_after(&c->events, r->after))) {
        uint64_t number = e->number;
        size_t len = 0;
        if (!call_can_send(r->call)) return;
        const uint8_t *bytes = client_port_event(c->client_port, e, &len);
        if (!bytes) return end_reader(c, r, CALL_RESOURCE_EXHAUSTED, "out of memory for an event");
        if (call_send(c->calls, r->call, bytes, len) < 0) return; /* gone: events_service_gone has freed r */
        r->after = number;
        c->moved = true;
    }
    if (!r->follow) end_reader(c, r, CALL_OK, "");
}

void events_service_open(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    struct coordinator *c = ctx;
    struct why why;
    uint64_t after;
    bool follow;
    c->moved = true;
    int rc = client_port_read_events(c->client_port, payload, len, &after, &follow, &why);
    if (rc < 0) return call_end(c->calls, call, call_status_from(rc), why.text);
    struct event_reader *r = c->n_readers < MAX_READERS ? malloc(sizeof *r) : NULL;
    if (!r) return call_end(c->calls, call, CALL_RESOURCE_EXHAUSTED, "too many clients read the events; try again later");
    *r = (struct event_reader){.call = call, .after = after, .follow = follow};
    call->handler = r;
    list_append(&c->readers, &r->node);
    c->n_readers++;
    flush_reader(c, r);
}

void events_service_credit(void *ctx, struct call *call) { flush_reader(ctx, call->handler); }

void events_service_gone(void *ctx, struct call *call, int status) {
    (void)status;
    free_reader(ctx, call->handler);
}

void events_service_flush(struct coordinator *c) {
    struct list *at, *next;
    list_for(at, next, &c->readers) flush_reader(c, list_entry(at, struct event_reader, node));
}

void events_service_end(struct coordinator *c, int status, const char *reason) {
    struct list *at, *next;
    events_service_flush(c);
    list_for(at, next, &c->readers) end_reader(c, list_entry(at, struct event_reader, node), status, reason);
}
