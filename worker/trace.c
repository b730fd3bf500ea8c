/* trace.c - one block per step: the rows' own parts first, then column by column as the layers run. */
#include "worker/trace.h"

#include <math.h>
#include <stdlib.h>

int trace_init(struct trace *t, const struct model_config *c, struct why *why) {
    *t = (struct trace){.config = c};
    if (!c->moe_layers) return 0;
    t->scores = malloc(sizeof *t->scores * (size_t)gate_width(&c->gate));
    bool ok = t->scores && ring_init(&t->free, sizeof(void *), TRACE_BLOCKS) >= 0;
    for (int i = 0; i < TRACE_BLOCKS && ok; i++) {
        struct trace_block *b = &t->blocks[i];
        ok = (b->bytes = malloc(TRACE_BLOCK_BYTES)) && ring_push(&t->free, &b);
    }
    if (ok) return 0;
    trace_clear(t);
    return fail(why, ERR_NOMEM, "out of memory for routing records");
}

void trace_clear(struct trace *t) {
    for (int i = 0; i < TRACE_BLOCKS; i++) free(t->blocks[i].bytes);
    ring_clear(&t->free);
    free(t->scores);
    *t = (struct trace){0};
}

static void choose_columns(struct trace *t, const uint8_t *layers, int n) {
    t->columns = 0;
    for (int l = 0; l < t->config->moe_layers; l++)
        t->column[l] = l / 8 < n && layers[l / 8] >> (l % 8) & 1 ? t->columns++ : -1;
}

void trace_begin(struct trace *t, const uint8_t *layers, int n, int worker, uint64_t step, const struct step_rows *rows) {
    t->lost = 0;
    t->now = NULL;
    if (!n || !rows->T || !t->scores) return;
    choose_columns(t, layers, n);
    if (!t->columns) return;
    struct trace_shape shape = {.topk = t->config->gate.k, .layers = t->columns};
    t->row_bytes = trace_row_bytes(&shape);
    size_t room = (TRACE_BLOCK_BYTES - TRACE_CHUNK_HEAD - TRACE_ROWS_HEAD) / t->row_bytes;
    bool some = room && ring_pop(&t->free, &t->now);
    t->rows = some ? rows->T : 0;
    if ((size_t)t->rows > room) t->rows = (int)room;
    t->lost = (uint32_t)(rows->T - t->rows);
    if (!some) return;
    size_t payload = TRACE_ROWS_HEAD + (size_t)t->rows * t->row_bytes;
    t->now->len = TRACE_CHUNK_HEAD + payload;
    uint8_t *at = t->now->bytes;
    trace_put_chunk(at, TRACE_ROWS, payload);
    trace_put_rows(at + TRACE_CHUNK_HEAD, (uint32_t)worker, (uint32_t)t->rows, step);
    at += TRACE_CHUNK_HEAD + TRACE_ROWS_HEAD;
    for (int i = 0; i < t->rows; i++, at += t->row_bytes)
        trace_put_row(at, &(struct trace_row){rows->seq_id[i], rows->ids[i], (uint32_t)rows->pos[i], rows->domain[i]});
}

/* p over all experts: softmax of the logits where the gate's scores are one, else the scores as shares of their sum. */
void trace_judge(const struct gating *g, int t, float *p, float *entropy, float *confidence) {
    const struct gate_rule *rule = &g->config->gate;
    int W = gate_width(rule);
    const float *z = g->logits + (size_t)t * (size_t)W;
    float max = z[0];
    double sum = 0, h = 0;
    for (int i = 1; i < W; i++) max = z[i] > max ? z[i] : max;
    for (int i = 0; i < W; i++) {
        float s = rule->score == GATE_SIGMOID        ? 1 / (1 + expf(-z[i]))
                  : rule->score == GATE_SQRTSOFTPLUS ? sqrtf(fmaxf(z[i], 0) + log1pf(expf(-fabsf(z[i]))))
                                                     : expf(z[i] - max);
        p[i] = s;
        sum += (double)s;
    }
    for (int i = 0; i < W; i++) {
        double q = sum > 0 ? (double)p[i] / sum : 0;
        if (q > 0) h -= q * log(q);
    }
    bool sound = isfinite(h);
    *entropy = sound ? (float)h : 0;
    *confidence = !sound ? 0 : W > 1 ? (float)(1 - h / log(W)) : 1;
}

void trace_layer(struct trace *t, int moe_index, const struct gating *g) {
    int column = t->now ? t->column[moe_index] : -1, k = t->config->gate.k;
    if (column < 0) return;
    uint8_t *row = t->now->bytes + TRACE_CHUNK_HEAD + TRACE_ROWS_HEAD;
    for (int i = 0; i < t->rows; i++, row += t->row_bytes) {
        float entropy, confidence;
        trace_judge(g, i, t->scores, &entropy, &confidence);
        trace_put_cell(row, k, column, entropy, confidence, g->weights + (size_t)i * (size_t)k, g->ids + (size_t)i * (size_t)k);
    }
}

struct trace_block *trace_end(struct trace *t) {
    struct trace_block *b = t->now;
    t->now = NULL;
    return b;
}

void trace_give_back(struct trace *t, struct trace_block *b) { ring_push(&t->free, &b); }
