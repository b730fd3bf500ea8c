/* domains.c - a table of names, and counts per worker that replace each other. */
#include "coordinator/domains.h"

#include <stdlib.h>
#include <string.h>

void domains_init(struct domains *d, size_t cells) { *d = (struct domains){.n = 1, .cells = cells}; }

void domains_clear(struct domains *d) {
    for (int w = 0; w < MSG_MAX_WORKERS; w++)
        for (int i = 0; i < TRACE_DOMAINS; i++) free(d->rows[w][i]);
    *d = (struct domains){0};
}

int domains_number(struct domains *d, struct text_slice tag) {
    if (!tag.len) return 0;
    for (int i = 1; i < d->n; i++)
        if (strlen(d->name[i]) == tag.len && !memcmp(d->name[i], tag.data, tag.len)) return i;
    if (d->n == TRACE_DOMAINS || tag.len > TRACE_NAME_BYTES) return TRACE_DOMAINS - 1;
    int i = d->n++;
    bool last = i == TRACE_DOMAINS - 1;
    memcpy(d->name[i], last ? DOMAINS_REST : tag.data, last ? sizeof DOMAINS_REST : tag.len);
    return i;
}

int domains_tally(struct domains *d, int worker, uint32_t domain, const uint64_t *rows, size_t n, struct why *why) {
    if (domain < 1 || domain >= (uint32_t)d->n || n != d->cells)
        return fail(why, ERR_PROTOCOL, "counts of %zu experts for domain %u; expected %zu and 1 to %d", n, domain, d->cells,
                    d->n - 1);
    uint64_t **mine = &d->rows[worker][domain];
    if (!*mine && !(*mine = malloc(sizeof **mine * n))) return fail(why, ERR_NOMEM, "out of memory for counts per domain");
    memcpy(*mine, rows, sizeof **mine * n);
    return 0;
}

bool domains_sum(const struct domains *d, int domain, uint64_t *out) {
    bool some = false;
    memset(out, 0, sizeof *out * d->cells);
    for (int w = 0; w < MSG_MAX_WORKERS; w++) {
        const uint64_t *rows = d->rows[w][domain];
        for (size_t i = 0; rows && i < d->cells; i++) out[i] += rows[i];
        some |= rows != NULL;
    }
    return some;
}
