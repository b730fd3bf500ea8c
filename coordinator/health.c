/* health.c - see health.h. */
#include "coordinator/health.h"

#include <stdio.h>

const char *health_level_name(enum health_level l) {
    static const char *const names[] = {"green", "amber", "red"};
    return names[l];
}

int64_t health_watch(struct health_watch *w, bool owes, uint64_t counter, int64_t now_us, int64_t gap_us) {
    if (!owes || !w->owes || counter != w->counter) w->since_us = now_us;
    else w->since_us = w->since_us + gap_us < now_us ? w->since_us + gap_us : now_us;
    w->owes = owes;
    w->counter = counter;
    return now_us - w->since_us;
}

void health_is(struct health *h, enum health_level level, const char *part, const char *text) {
    if (level <= h->level) return;
    h->level = level;
    snprintf(h->part, sizeof h->part, "%s", part);
    snprintf(h->text, sizeof h->text, "%s", text);
}

void health_late(struct health *h, const char *part, const char *what, int64_t still_us, int64_t deadline_us) {
    char text[160];
    if (still_us < deadline_us) return;
    snprintf(text, sizeof text, "%s for %.1f s", what, (double)still_us / 1e6);
    health_is(h, still_us < 2 * deadline_us ? HEALTH_AMBER : HEALTH_RED, part, text);
}
