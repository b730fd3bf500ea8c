/* routing.c - one pass over a trace; memory is that of the counts, whatever the file's length. */
#include "cli/routing.h"

#include <stdlib.h>
#include <string.h>

/* Counts of a domain: layers, then the rows of each, in one block, made for its first token. */
static int open_domain(struct routing *r, int domain, struct why *why) {
    size_t L = (size_t)r->shape.layers, E = (size_t)r->shape.experts;
    struct routing_layer *layer = calloc(1, L * (sizeof *layer + E * sizeof(uint64_t)));
    if (!layer) return fail(why, ERR_NOMEM, "out of memory for %zu counts", L * E);
    uint64_t *rows = (uint64_t *)(layer + L);
    for (size_t i = 0; i < L; i++) layer[i].rows = rows + i * E;
    r->layer[domain] = layer;
    return 0;
}

static void judge(struct routing_layer *l, const struct trace_cell *c, int topk, const bool *expected, int experts) {
    int heaviest = -1, set = 0;
    for (int j = 0; j < topk; j++) {
        if (c->expert[j] >= experts) continue;
        l->pairs++;
        l->pairs_right += expected[c->expert[j]];
        if (heaviest < 0 || c->weight[j] > c->weight[heaviest]) heaviest = j;
    }
    for (int e = 0; e < experts; e++) set += expected[e];
    l->judged++;
    l->right += heaviest >= 0 && expected[c->expert[heaviest]];
    l->chance += (double)set / experts;
}

static int count_row(struct routing *r, const struct labels *labels, const int *label_of, const uint8_t *bytes,
                     struct why *why) {
    const struct trace_shape *s = &r->shape;
    struct trace_row row;
    struct trace_cell c;
    trace_get_row(bytes, &row);
    if (!r->layer[row.domain] && open_domain(r, row.domain, why) < 0) return ERR_NOMEM;
    r->tokens++;
    r->broken += row.broken;
    r->domain_tokens[row.domain]++;
    for (int i = 0; i < s->layers; i++) {
        struct routing_layer *l = &r->layer[row.domain][i];
        trace_get_cell(bytes, s->topk, i, &c);
        l->tokens++;
        l->entropy += (double)c.entropy;
        l->confidence += (double)c.confidence;
        for (int j = 0; j < s->topk; j++) {
            if (c.expert[j] < s->experts) l->rows[c.expert[j]]++;
            else if (c.expert[j] != TRACE_NO_EXPERT) l->zero++;
        }
        const bool *expected = labels && label_of[row.domain] >= 0 ? labels_of(labels, label_of[row.domain], i) : NULL;
        if (expected) judge(l, &c, s->topk, expected, s->experts);
    }
    return 0;
}

static int count_all(struct routing *r, struct trace_reader *reader, const struct labels *labels, struct why *why) {
    struct trace_chunk c;
    int label_of[TRACE_DOMAINS], rc;
    for (int d = 0; d < TRACE_DOMAINS; d++) label_of[d] = -1;
    while ((rc = trace_reader_next(reader, &c, why)) > 0) {
        size_t each = trace_row_bytes(&r->shape);
        if (c.kind == TRACE_NAME) {
            memcpy(r->name[c.domain], c.name, sizeof c.name);
            if (labels) label_of[c.domain] = labels_find(labels, c.name);
        } else if (c.kind == TRACE_LOST) {
            r->lost += c.lost;
        } else if (c.kind == TRACE_ROWS) {
            for (uint32_t i = 0; i < c.n && rc >= 0; i++) rc = count_row(r, labels, label_of, c.rows + i * each, why);
            if (rc < 0) return rc;
        }
    }
    r->whole = reader->ended;
    return rc;
}

int routing_read(struct routing *r, FILE *f, const char *labels_text, const char *labels_file, struct why *why) {
    struct trace_reader reader;
    struct labels labels;
    *r = (struct routing){0};
    int rc = trace_reader_open(&reader, f, why);
    if (rc < 0) return rc;
    r->shape = reader.shape;
    if (labels_text) rc = labels_parse(&labels, &r->shape, labels_text, labels_file, why);
    if (rc >= 0) {
        rc = count_all(r, &reader, labels_text ? &labels : NULL, why);
        if (labels_text) labels_clear(&labels);
    }
    trace_reader_close(&reader);
    if (rc < 0) routing_clear(r);
    return rc;
}

void routing_clear(struct routing *r) {
    for (int d = 0; d < TRACE_DOMAINS; d++) free(r->layer[d]);
    *r = (struct routing){0};
}

void routing_sum(const struct routing *r, int domain, int layer, struct routing_layer *out) {
    for (int d = domain < 0 ? 0 : domain; d < (domain < 0 ? TRACE_DOMAINS : domain + 1); d++) {
        if (!r->layer[d]) continue;
        const struct routing_layer *l = &r->layer[d][layer];
        for (int e = 0; e < r->shape.experts; e++) out->rows[e] += l->rows[e];
        out->tokens += l->tokens;
        out->zero += l->zero;
        out->entropy += l->entropy;
        out->confidence += l->confidence;
        out->judged += l->judged;
        out->right += l->right;
        out->pairs += l->pairs;
        out->pairs_right += l->pairs_right;
        out->chance += l->chance;
    }
}

void routing_figures(const struct routing *r, const struct routing_layer *l, struct figures *f, uint64_t *scratch) {
    figures_layer(f, l->rows, (size_t)r->shape.experts, l->tokens, scratch);
    if (!l->tokens) return;
    f->entropy = l->entropy / (double)l->tokens;
    f->confidence = l->confidence / (double)l->tokens;
}
