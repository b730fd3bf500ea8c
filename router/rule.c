/* rule.c - the kind first, then what was added to it, in the order in which it acts. */
#include "router/rule.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "router/gate.h"

static void add(char *buf, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void add(char *buf, size_t cap, const char *fmt, ...) {
    size_t n = strlen(buf);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(buf + n, cap - n, fmt, ap);
    va_end(ap);
}

static void add_tree(const struct tree_rule *t, char *buf, size_t cap) {
    static const char *const searches[] = {"greedy", "beam", "exact"};
    add(buf, cap, "tree %d x %d x %d, %s", t->branch[0], t->branch[1], t->branch[2], searches[t->search]);
    if (t->search == TREE_BEAM) add(buf, cap, " %d", t->beam);
    add(buf, cap, ", %d %s%s", t->k, t->k == 1 ? "leaf" : "leaves", t->shared ? ", gates shared per level" : "");
}

static void add_two_stage(const struct two_stage_rule *s, char *buf, size_t cap) {
    add(buf, cap, "two stages: %d of %d globals, %d domains of %d", s->global_topk, s->globals, s->k, s->domains);
    if (s->locals) add(buf, cap, ", %d of %d locals each", s->k_local, s->locals / s->domains);
    if (s->rank) add(buf, cap, " of rank %d", s->rank);
    if (s->product) add(buf, cap, ", weighed by the product");
}

void router_rule_text(const struct router_rule *r, const struct gate_rule *gate, char *buf, size_t cap) {
    if (!cap) return;
    buf[0] = 0;
    if (r->kind == ROUTER_FLAT) gate_rule_text(gate, buf, cap);
    else if (r->kind == ROUTER_TREE) add_tree(&r->tree, buf, cap);
    else add_two_stage(&r->two_stage, buf, cap);
    if (r->segment.len) add(buf, cap, "; %s per segment of %d", r->segment.domain ? "domains" : "first level", r->segment.len);
    if (r->history.mode == HISTORY_EMA) add(buf, cap, "; moving average of its choices");
    if (r->history.mode == HISTORY_LAYER) add(buf, cap, "; recurrent over the layers");
    if (r->top_p.p > 0) add(buf, cap, "; top-p %g, %d to %d", (double)r->top_p.p, r->top_p.k_min, r->top_p.k_max);
    if (r->confidence.action == CONFIDENCE_WIDEN) add(buf, cap, "; widened to %d when unsure", r->confidence.k_max);
    if (r->confidence.action == CONFIDENCE_ESCALATE) add(buf, cap, "; one global more when unsure");
    if (r->bias_update.serve) add(buf, cap, "; bias follows the traffic");
}
