/* overlap.c - see overlap.h. */
#include "coordinator/overlap.h"

#include <stdbool.h>

static const double SMOOTH = 0.1, WORTH = 0.05; /* a gain of less than a twentieth is not worth a try, nor noise a change */
static const double FAR = 1.25;                 /* what is further off counts as so far: one hiccup changes no choice */

static struct overlap_class *class_of(struct overlap *o, int rows) {
    int n = rows > 1 ? 31 - __builtin_clz((unsigned)rows) : 0;
    return &o->size[n < OVERLAP_CLASSES ? n : OVERLAP_CLASSES - 1];
}

static void smooth(double *value, double sample, bool first) { *value = first ? sample : *value + SMOOTH * (sample - *value); }

/* Of the first samples the least: a slow one says little, and would be forgotten slowly. */
static void smooth_time(double *value, double sample, unsigned seen) {
    if (seen < OVERLAP_LEARN) {
        if (!seen || sample < *value) *value = sample;
        return;
    }
    if (sample > *value * FAR) sample = *value * FAR;
    if (sample < *value / FAR) sample = *value / FAR;
    smooth(value, sample, false);
}

static int choose(struct overlap *o, int rows, int workers) {
    if (o->forced) return o->forced;
    if (workers < 2 || rows < OVERLAP_MIN_ROWS) return 1;
    struct overlap_class *c = class_of(o, rows);
    c->turn++;
    if (c->seen[0] < OVERLAP_LEARN) return 1;
    double hidden = c->waited < 0.5 ? c->waited : 0.5;
    if (hidden < WORTH) return 1;
    if (c->seen[1] < OVERLAP_LEARN) return 2;
    bool two = c->row_us[1] < c->row_us[0] * (1 - WORTH / 2);
    if (c->turn % OVERLAP_AGAIN == 0) two = !two;
    return two ? 2 : 1;
}

int overlap_choose(struct overlap *o, int rows, int workers) {
    int n = choose(o, rows, workers);
    o->steps[n - 1]++;
    return n;
}

void overlap_learn(struct overlap *o, int rows, int microbatches, int64_t step_us, int64_t wait_us) {
    if (rows < OVERLAP_MIN_ROWS || step_us <= 0 || microbatches < 1 || microbatches > 2) return;
    struct overlap_class *c = class_of(o, rows);
    int form = microbatches - 1;
    double part = (double)wait_us / (double)step_us;
    smooth_time(&c->row_us[form], (double)step_us / rows, c->seen[form]);
    if (form == 0) smooth(&c->waited, part < 0 ? 0 : part > 1 ? 1 : part, !c->seen[form]);
    if (c->seen[form] < OVERLAP_LEARN) c->seen[form]++;
}
