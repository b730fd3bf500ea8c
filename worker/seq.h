/* seq.h - the sequences this worker is home to: known tokens, KV pages, how to sample, where they end.
 *
 * A fixed table, allocated once. State per sequence: RUNNING until the home decides an end, then ENDED (later granted rows are
 * no-ops) until the coordinator drops it. Everything a sequence produces is written at (sequence, position), never updated in
 * place, so running a position again gives the same bits. Owner: the engine thread. */
#pragma once
#include "worker/cmd.h"

struct seq {
    uint64_t id; /* 0 = free entry */
    int n_ids, prompt_tokens, max_tokens;
    int32_t *ids;   /* [max_context] known tokens */
    int32_t *pages; /* [max_pages] in order of position */
    int n_pages;
    int rows; /* positions 0 .. rows - 1 went through all layers, in steps that were completed */
    int32_t stop_ids[MAX_STOP_IDS];
    int n_stop_ids;
    bool allow_degraded;
    struct sampling sampling;
    uint16_t domain;
    enum seq_finish finish;
    uint64_t last_step; /* it ran in: a plan runs a sequence at most once, or one sample could follow another unchecked */
};

struct seq_table {
    struct seq *seqs;     /* [max_seqs] */
    int32_t *ids, *pages; /* backing of all */
    int32_t *bucket;      /* open addressing: entry + 1, 0 empty, -1 removed */
    int mask;
    int max_seqs, max_context, max_pages, page_tokens, kv_pages, n;
};

int seq_table_init(struct seq_table *t, const struct worker_setup *s, struct why *why);
void seq_table_clear(struct seq_table *t);
struct seq *seq_find(struct seq_table *t, uint64_t id); /* NULL: unknown */

/* What the coordinator grants is checked like any input: ERR_PROTOCOL with the sequence and the numbers. */
int seq_start(struct seq_table *t, const struct plan_start *start, struct why *why);
void seq_table_empty(struct seq_table *t);
void seq_drop(struct seq_table *t, uint64_t id); /* unknown ids are fine: a drop may be repeated */
int seq_add_pages(struct seq_table *t, struct seq *s, const uint32_t *pages, int n, struct why *why);
/* Appends the token sampled for position n_ids and decides whether the sequence ends with it. */
void seq_append(struct seq *s, int32_t token);
