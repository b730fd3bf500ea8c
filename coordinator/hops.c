/* hops.c - see hops.h. */
#include "coordinator/hops.h"

static const double WORTH = 0.05; /* a gain of less than a twentieth is within what the figures are good for */

double hops_groups(int experts, int groups, int topk) {
    if (groups < 1 || experts < 1) return 0;
    double E = experts, others = E - E / groups, missed = 1;
    for (int i = 0; i < topk && i < experts; i++) missed *= others > i ? (others - i) / (E - i) : 0;
    return groups * (1 - missed);
}

static double hop_us(const struct hops_link *l, double bytes) { return l->latency_us + bytes / l->bytes_per_us; }
static double longer(double a, double b) { return a > b ? a : b; }

struct hops_cost hops_cost(const struct hops *h, int tokens) {
    struct hops_cost c = {0};
    if (h->hosts < 2 || h->workers < h->hosts) return c;
    double workers = h->workers, each = workers / h->hosts; /* on a host */
    double copies = tokens * hops_groups(h->experts, h->workers, h->topk);
    double near = copies * (each - 1) / workers; /* to the home's own neighbours, either way */
    c.direct_far = copies * (workers - each) / workers;
    c.two_far = tokens * hops_groups(h->experts, h->hosts, h->topk) * (h->hosts - 1) / h->hosts;
    if (h->inside.bytes_per_us <= 0 || h->between.bytes_per_us <= 0) return c;
    /* A relay is sent as much as it sends, and keeps its own share of that. */
    double row = (double)h->row_bytes, passed = c.direct_far * (each - 1) / each;
    double near_us = hop_us(&h->inside, near * row);
    c.direct_us = longer(hop_us(&h->between, c.direct_far * row), near_us);
    c.two_us = longer(hop_us(&h->between, c.two_far * row), near_us) + hop_us(&h->inside, passed * row);
    return c;
}

int hops_choose(const struct hops *h, int tokens) {
    if (h->hosts < 2 || h->workers <= h->hosts || !h->experts) return 1;
    if (h->forced) return h->forced;
    struct hops_cost c = hops_cost(h, tokens);
    return c.two_us < c.direct_us * (1 - WORTH) ? 2 : 1;
}

int hops_two_from(const struct hops *h, int most) {
    int low = 0, high = most; /* one hop for low, two for high: more tokens speak for two */
    if (most < 1 || hops_choose(h, most) != 2) return 0;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        *(hops_choose(h, middle) == 2 ? &high : &low) = middle;
    }
    return high;
}

struct hops_link hops_slower(struct hops_link a, struct hops_link b) {
    if (b.bytes_per_us <= 0) return a;
    if (a.bytes_per_us <= 0) return b;
    if (b.latency_us > a.latency_us) a.latency_us = b.latency_us;
    if (b.bytes_per_us < a.bytes_per_us) a.bytes_per_us = b.bytes_per_us;
    return a;
}
