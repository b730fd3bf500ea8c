/* domains.c - a table of names, and counts per worker that replace each other. */
#include "coordinator/domains.h"

#include <stdlib.h>
#include <string.h>

void domains_init(struct domains *d, size_t cells) { *d = (struct domains){.n = 1, .cells = cells}; }

void domains_clear(struct domains *d) {
    for (int w = 0; w <= MSG_MAX_WORKERS; w++)
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

static int drop(struct domains *d, uint32_t domain, struct why *why) {
    d->dropped[domain] = true;
    for (int w = 0; w <= MSG_MAX_WORKERS; w++) {
        free(d->rows[w][domain]);
        d->rows[w][domain] = NULL;
    }
    return fail(why, ERR_NOMEM, "out of memory for the counts of domain '%s': they are dropped", d->name[domain]);
}

int domains_tally(struct domains *d, int worker, uint32_t domain, uint64_t tokens, const uint64_t *rows, size_t n,
                  struct why *why) {
    if (domain < 1 || domain >= (uint32_t)d->n || n != d->cells)
        return fail(why, ERR_PROTOCOL, "counts of %zu experts for domain %u; expected %zu and 1 to %d", n, domain, d->cells,
                    d->n - 1);
    uint64_t **mine = &d->rows[worker][domain];
    if (d->dropped[domain]) return 0;
    if (!*mine && !(*mine = malloc(sizeof **mine * n))) return drop(d, domain, why);
    memcpy(*mine, rows, sizeof **mine * n);
    d->tokens[worker][domain] = tokens;
    return 0;
}

void domains_succeed(struct domains *d, int worker) {
    uint64_t **all = d->rows[MSG_MAX_WORKERS], **mine = d->rows[worker];
    for (int i = 0; i < TRACE_DOMAINS; i++) {
        if (!mine[i]) continue;
        for (size_t j = 0; all[i] && j < d->cells; j++) mine[i][j] += all[i][j];
        free(all[i]);
        all[i] = mine[i];
        mine[i] = NULL;
        d->tokens[MSG_MAX_WORKERS][i] += d->tokens[worker][i];
        d->tokens[worker][i] = 0;
    }
}

bool domains_sum(const struct domains *d, int domain, uint64_t *out, uint64_t *tokens) {
    bool some = false;
    memset(out, 0, sizeof *out * d->cells);
    *tokens = 0;
    for (int w = 0; w <= MSG_MAX_WORKERS; w++) {
        const uint64_t *rows = d->rows[w][domain];
        if (!rows) continue;
        for (size_t i = 0; i < d->cells; i++) out[i] += rows[i];
        *tokens += d->tokens[w][domain];
        some = true;
    }
    return some;
}
