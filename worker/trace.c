/* trace.c - one block per step: the rows' own parts first, then column by column as the layers run. */
#include "worker/trace.h"

#include <math.h>
#include <stdlib.h>

int trace_init(struct trace *t, const struct model_config *c, int max_tokens, struct why *why) {
    *t = (struct trace){.config = c, .width = router_first(&c->router, gate_width(&c->gate))};
    if (!c->moe_layers) return 0;
    t->scores = malloc(sizeof *t->scores * (size_t)t->width);
    t->logits = malloc(sizeof *t->logits * (size_t)t->width * (size_t)max_tokens);
    bool ok = t->scores && t->logits && ring_init(&t->free, sizeof(void *), TRACE_BLOCKS) >= 0;
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
    free(t->logits);
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
    t->now->rows = (uint32_t)t->rows;
    uint8_t *at = t->now->bytes;
    trace_put_chunk(at, TRACE_ROWS, payload);
    trace_put_rows(at + TRACE_CHUNK_HEAD, (uint32_t)worker, (uint32_t)t->rows, step);
    at += TRACE_CHUNK_HEAD + TRACE_ROWS_HEAD;
    for (int i = 0; i < t->rows; i++, at += t->row_bytes)
        trace_put_row(at, &(struct trace_row){rows->seq_id[i], rows->ids[i], (uint32_t)rows->pos[i], rows->domain[i], 0});
}

void trace_judge(const float *z, int n, enum gate_score score, float *p, float *entropy, float *confidence) {
    float max = z[0];
    double sum = 0, h = 0;
    for (int i = 1; i < n; i++) max = z[i] > max ? z[i] : max;
    for (int i = 0; i < n; i++) {
        p[i] = score == GATE_SIGMOID        ? 1 / (1 + expf(-z[i]))
               : score == GATE_SQRTSOFTPLUS ? sqrtf(fmaxf(z[i], 0) + log1pf(expf(-fabsf(z[i]))))
                                            : expf(z[i] - max);
        sum += (double)p[i];
    }
    for (int i = 0; i < n; i++) {
        double q = sum > 0 ? (double)p[i] / sum : 0;
        if (q > 0) h -= q * log(q);
    }
    bool sound = sum > 0 && isfinite(h);
    *entropy = sound ? (float)h : 0;
    *confidence = !sound ? 0 : n > 1 ? (float)(1 - h / log(n)) : 1;
}

void trace_layer(struct trace *t, int moe_index, const struct gating *g, int first, int T) {
    int column = t->now ? t->column[moe_index] : -1, k = t->config->gate.k;
    if (column < 0 || first >= t->rows) return;
    if (T > t->rows - first) T = t->rows - first;
    size_t width = (size_t)t->width;
    uint8_t *row = t->now->bytes + TRACE_CHUNK_HEAD + TRACE_ROWS_HEAD + (size_t)first * t->row_bytes;
    bool own = g->confidence && g->entropy; /* the router has a rule of its own */
    if (!own) g->backend->ops->download(g->backend, t->logits, g->first, (size_t)T * width * sizeof *t->logits);
    enum gate_score score = t->config->router.kind == ROUTER_FLAT ? t->config->gate.score : GATE_SOFTMAX;
    for (int i = 0; i < T; i++, row += t->row_bytes) {
        float entropy, confidence;
        if (own) entropy = g->entropy[i], confidence = g->confidence[i];
        else trace_judge(t->logits + (size_t)i * width, t->width, score, t->scores, &entropy, &confidence);
        trace_put_cell(row, k, column, entropy, confidence, g->weights + (size_t)i * (size_t)k, g->ids + (size_t)i * (size_t)k);
    }
}

struct trace_block *trace_end(struct trace *t) {
    struct trace_block *b = t->now;
    t->now = NULL;
    return b;
}

void trace_give_back(struct trace *t, struct trace_block *b) { ring_push(&t->free, &b); }
