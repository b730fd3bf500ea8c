/* telemetry.c - counters and a ring of seconds. */
#include "coordinator/telemetry.h"

#include <inttypes.h>
#include <stdlib.h>

enum { UNKNOWN_ROW_US = 100 * 1000 }; /* before the first report: a generous guess */

int telemetry_init(struct telemetry *t, const struct placement *p) {
    size_t n = (size_t)p->layers * (size_t)p->experts;
    *t = (struct telemetry){.placement = p};
    t->rows = calloc(n ? n : 1, sizeof *t->rows);
    return t->rows ? 0 : ERR_NOMEM;
}

void telemetry_clear(struct telemetry *t) {
    free(t->rows);
    *t = (struct telemetry){0};
}

int telemetry_step(struct telemetry *t, int worker, const struct worker_step_done *d, const struct telemetry_of_step *step,
                   struct why *why) {
    const struct placement *p = t->placement;
    const int32_t *first = p->slot_first + (size_t)worker * (size_t)p->layers; /* [layers + 1]: this worker's slots by layer */
    int slots = p->layers ? first[p->layers] - first[0] : 0;
    if (d->n_rows != slots)
        return fail(why, ERR_PROTOCOL, "worker %d reports the rows of %d slots in step %" PRIu64 "; it has %d", worker,
                    d->n_rows, d->step, slots);
    const uint32_t *rows = d->rows;
    for (int l = 0; l < p->layers; l++)
        for (int s = first[l]; s < first[l + 1]; s++, rows++) {
            t->rows[l * p->experts + p->slot_expert[s]] += *rows;
            t->worker_rows[worker] += *rows;
        }
    for (int i = 0; i < d->n_wait; i++) t->wait_us[worker] += d->wait_us[i];
    t->busy_us[worker] += d->step_us;
    t->tokens += d->tokens;
    for (int i = 0; i < PARTS; i++)
        if (i != PART_SCHEDULER || step->goes_on) t->part_us[worker][i] += d->part_us[i];
    telemetry_pace(t, d->step_us, step->rows);
    return 0;
}

void telemetry_pace(struct telemetry *t, uint64_t step_us, int step_rows) {
    if (step_rows < 1) return;
    double per_row = (double)step_us / step_rows;
    t->row_us = t->row_us > 0 ? 0.9 * t->row_us + 0.1 * per_row : per_row;
}

void telemetry_tokens(struct telemetry *t, int64_t now_us, uint64_t prompt, uint64_t tokens) {
    int64_t second = now_us / 1000000;
    struct telemetry_second *s = &t->window[second % (TELEMETRY_WINDOW + 1)];
    if (s->second != second) *s = (struct telemetry_second){.second = second};
    s->prompt += prompt;
    s->tokens += tokens;
}

void telemetry_rate(const struct telemetry *t, int64_t now_us, double *prompt_per_s, double *tokens_per_s) {
    int64_t second = now_us / 1000000; /* the current one is not over: look at those before it */
    uint64_t prompt = 0, tokens = 0;
    for (int i = 0; i <= TELEMETRY_WINDOW; i++) {
        const struct telemetry_second *s = &t->window[i];
        if (s->second >= second || s->second < second - TELEMETRY_WINDOW) continue;
        prompt += s->prompt;
        tokens += s->tokens;
    }
    *prompt_per_s = (double)prompt / TELEMETRY_WINDOW;
    *tokens_per_s = (double)tokens / TELEMETRY_WINDOW;
}

int64_t telemetry_patience(const struct telemetry *t, int step_rows, int64_t min_us) {
    double us = 10 * (t->row_us > 0 ? t->row_us : UNKNOWN_ROW_US) * (step_rows > 0 ? step_rows : 1);
    if (us > 60e6) us = 60e6;
    return us > (double)min_us ? (int64_t)us : min_us;
}
