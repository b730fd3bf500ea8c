/* seq.c - the table of local sequences: a dense array and a small hash of ids into it. */
#include "worker/seq.h"

#include "base/hash.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

int seq_table_init(struct seq_table *t, const struct worker_setup *s, struct why *why) {
    int max_pages = (s->max_context + s->page_tokens - 1) / s->page_tokens, buckets = 16;
    while (buckets < 4 * s->max_seqs) buckets *= 2;
    *t = (struct seq_table){.mask = buckets - 1,
                            .max_seqs = s->max_seqs,
                            .max_context = s->max_context,
                            .max_pages = max_pages,
                            .page_tokens = s->page_tokens,
                            .kv_pages = s->kv_pages};
    t->seqs = calloc((size_t)s->max_seqs, sizeof *t->seqs);
    t->ids = calloc((size_t)s->max_seqs * (size_t)s->max_context, sizeof *t->ids);
    t->pages = calloc((size_t)s->max_seqs * (size_t)max_pages, sizeof *t->pages);
    t->bucket = calloc((size_t)buckets, sizeof *t->bucket);
    if (!t->seqs || !t->ids || !t->pages || !t->bucket) {
        seq_table_clear(t);
        return fail(why, ERR_NOMEM, "out of memory for %d sequences of %d tokens", s->max_seqs, s->max_context);
    }
    for (int i = 0; i < s->max_seqs; i++) {
        t->seqs[i].ids = t->ids + (size_t)i * (size_t)s->max_context;
        t->seqs[i].pages = t->pages + (size_t)i * (size_t)max_pages;
    }
    return 0;
}

void seq_table_clear(struct seq_table *t) {
    free(t->seqs);
    free(t->ids);
    free(t->pages);
    free(t->bucket);
    *t = (struct seq_table){0};
}

/* The bucket that holds id, or -1. */
static int find_bucket(const struct seq_table *t, uint64_t id) {
    for (int i = (int)(hash_u64(id) & (uint64_t)t->mask), tries = 0; tries <= t->mask; i = (i + 1) & t->mask, tries++) {
        if (t->bucket[i] == 0) return -1;
        if (t->bucket[i] > 0 && t->seqs[t->bucket[i] - 1].id == id) return i;
    }
    return -1;
}

struct seq *seq_find(struct seq_table *t, uint64_t id) {
    int b = id ? find_bucket(t, id) : -1;
    return b < 0 ? NULL : &t->seqs[t->bucket[b] - 1];
}

/* Removed marks pile up; when the table is empty they can all go. */
static void insert(struct seq_table *t, int entry, uint64_t id) {
    if (!t->n) memset(t->bucket, 0, sizeof *t->bucket * ((size_t)t->mask + 1));
    int i = (int)(hash_u64(id) & (uint64_t)t->mask);
    while (t->bucket[i] > 0) i = (i + 1) & t->mask;
    t->bucket[i] = entry + 1;
    t->n++;
}

int seq_start(struct seq_table *t, const struct plan_start *start, struct why *why) {
    unsigned long long id = start->seq;
    if (!id || seq_find(t, id)) return fail(why, ERR_PROTOCOL, "sequence %llu starts twice", id);
    if (start->n_ids < 1 || start->n_ids > t->max_context || start->prompt_tokens < 1 || start->prompt_tokens > start->n_ids)
        return fail(why, ERR_PROTOCOL, "sequence %llu starts with %d tokens of which %d are prompt; room for %d", id,
                    start->n_ids, start->prompt_tokens, t->max_context);
    if (start->max_tokens < 0) /* 0 is fine: a prompt that is only read */
        return fail(why, ERR_PROTOCOL, "sequence %llu may answer with at most %d tokens; expected 0 or more", id,
                    start->max_tokens);
    if (start->n_stop_ids > MAX_STOP_IDS)
        return fail(why, ERR_PROTOCOL, "sequence %llu has %d stop ids, at most %d", id, start->n_stop_ids, MAX_STOP_IDS);
    if (t->n == t->max_seqs)
        return fail(why, ERR_PROTOCOL, "sequence %llu is one more than the %d this worker has room for", id, t->max_seqs);
    int entry = 0;
    while (t->seqs[entry].id) entry++;
    struct seq *s = &t->seqs[entry];
    *s = (struct seq){.id = id,
                      .n_ids = start->n_ids,
                      .prompt_tokens = start->prompt_tokens,
                      .max_tokens = start->max_tokens,
                      .ids = s->ids,
                      .pages = s->pages,
                      .n_stop_ids = start->n_stop_ids,
                      .allow_degraded = start->allow_degraded,
                      .sampling = start->sampling,
                      .domain = (uint16_t)start->domain};
    memcpy(s->ids, start->ids, sizeof *s->ids * (size_t)start->n_ids);
    if (start->n_stop_ids) memcpy(s->stop_ids, start->stop_ids, sizeof *s->stop_ids * (size_t)start->n_stop_ids);
    insert(t, entry, id);
    return 0;
}

void seq_drop(struct seq_table *t, uint64_t id) {
    int b = id ? find_bucket(t, id) : -1;
    if (b < 0) return;
    t->seqs[t->bucket[b] - 1].id = 0;
    t->bucket[b] = -1;
    t->n--;
}

void seq_table_empty(struct seq_table *t) {
    for (int i = 0; i < t->max_seqs; i++) t->seqs[i].id = 0;
    memset(t->bucket, 0, sizeof *t->bucket * ((size_t)t->mask + 1));
    t->n = 0;
}

int seq_add_pages(struct seq_table *t, struct seq *s, const uint32_t *pages, int n, struct why *why) {
    if (n > t->max_pages - s->n_pages)
        return fail(why, ERR_PROTOCOL, "sequence %llu is given page %d of at most %d", (unsigned long long)s->id,
                    s->n_pages + n, t->max_pages);
    for (int i = 0; i < n; i++) {
        if (pages[i] >= (uint32_t)t->kv_pages)
            return fail(why, ERR_PROTOCOL, "sequence %llu is given page %u of %d", (unsigned long long)s->id, pages[i],
                        t->kv_pages);
        s->pages[s->n_pages++] = (int32_t)pages[i];
    }
    return 0;
}

void seq_append(struct seq *s, int32_t token) {
    s->ids[s->n_ids++] = token;
    for (int i = 0; i < s->n_stop_ids; i++)
        if (s->stop_ids[i] == token) s->finish = SEQ_STOP;
    if (s->finish == SEQ_RUNNING && s->n_ids - s->prompt_tokens >= s->max_tokens) s->finish = SEQ_LENGTH;
}
