/* events.c - see events.h. */
#include "coordinator/events.h"

#include <stdio.h>
#include <string.h>

const char *event_kind_name(enum event_kind k) {
    static const char *const names[] = {
#define X(name, text) [EVENT_##name] = text,
        EVENT_KINDS(X)
#undef X
    };
    return names[k];
}

static struct event *at(struct events *es, uint64_t number) { return &es->ring[(number - 1) % EVENTS_KEPT]; }

struct event *events_add(struct events *es, int64_t unix_us, enum event_kind kind, int rank, const char *fmt, va_list ap) {
    char text[EVENT_TEXT_BYTES];
    vsnprintf(text, sizeof text, fmt, ap);
    struct event *e = es->added ? at(es, es->added) : NULL;
    if (e && e->kind == kind && e->rank == rank && !strcmp(e->text, text)) {
        e->times++;
        e->n_figures = 0; /* the latest count */
        return e;
    }
    e = at(es, ++es->added);
    *e = (struct event){.number = es->added, .unix_us = unix_us, .kind = kind, .rank = rank, .times = 1};
    memcpy(e->text, text, sizeof e->text);
    return e;
}

void event_figure(struct event *e, const char *name, int64_t value) {
    if (e->n_figures < EVENT_FIGURES)
        e->figure[e->n_figures++] = (struct event_figure){name, value > 0 ? (uint64_t)value : 0};
}

const struct event *events_after(const struct events *es, uint64_t after) {
    uint64_t next = after + 1;
    if (after >= es->added) return NULL;
    if (es->added > EVENTS_KEPT && next <= es->added - EVENTS_KEPT) next = es->added - EVENTS_KEPT + 1;
    return &es->ring[(next - 1) % EVENTS_KEPT];
}
