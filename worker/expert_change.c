/* expert_change.c - expert_store_change: from one table of slots to another, which is made on the side. */
#include <stdlib.h>

#include "worker/expert_load.h"

static bool in_chunk(const struct blob *b, const struct expert_chunk *chunk) {
    return b->data >= chunk->memory && b->data < chunk->memory + chunk->bytes;
}

static bool is_used(const struct expert_store *s, const struct expert_chunk *chunk) {
    for (int i = 0; i < s->first[s->layers]; i++)
        if (in_chunk(&s->slots[i].blob, chunk)) return true;
    for (int i = 0; i < s->layers * s->levels; i++)
        if (in_chunk(&s->common[i].blob, chunk)) return true;
    return false;
}

struct change { /* from one table of slots to another */
    struct expert_loader ld;
    const struct expert_store *was;
    const struct placement *p; /* that it had */
    int worker;
};

/* The blob where it is already, or NULL. */
static const struct blob *find_blob(const struct change *ch, const struct expert_ref *ref) {
    const struct expert_store *was = ch->was;
    if (ref->kind == BLOB_COMMON) {
        const struct blob *b = was->common ? &was->common[ref->moe_layer * was->levels + ref->expert].blob : NULL;
        return b && b->data ? b : NULL;
    }
    int n;
    const int16_t *experts = expert_list_of(ch->p, ch->worker, ref->moe_layer, &n);
    for (int i = 0; i < n; i++)
        if (experts[i] == ref->expert) return &was->slots[was->first[ref->moe_layer] + i].blob;
    return NULL;
}

static void measure_new(void *ctx, const struct expert_ref *ref) {
    struct change *ch = ctx;
    if (!find_blob(ch, ref)) expert_load_plan(&ch->ld, ref);
}

static void take_one(void *ctx, const struct expert_ref *ref) {
    struct change *ch = ctx;
    struct expert_store *s = ch->ld.s;
    const struct blob *b = find_blob(ch, ref);
    if (!b) return expert_load_one(&ch->ld, ref);
    if (ref->kind == BLOB_COMMON) {
        s->common[ref->moe_layer * s->levels + ref->expert] = ch->was->common[ref->moe_layer * s->levels + ref->expert];
        return;
    }
    struct expert_slot *e = &s->slots[ref->slot];
    *e = *(const struct expert_slot *)b; /* its first member */
    if (e->common) e->common = &s->common[ref->moe_layer * s->levels + model_expert_level(&ch->ld.c->config, ref->expert)].ffn;
}

/* Tables for `now`, and memory for what is new; all on the side. */
static int make_room(struct change *ch, const struct placement *now, struct expert_store *s) {
    s->first = calloc((size_t)now->layers + 1, sizeof *s->first);
    if (!s->first) return ERR_NOMEM;
    for (int l = 0; l < now->layers; l++) s->first[l + 1] = s->first[l] + placement_slots(now, ch->worker, l);
    s->slots = calloc((size_t)s->first[now->layers] + 1, sizeof *s->slots);
    s->common = calloc((size_t)now->layers * (size_t)s->levels + 1, sizeof *s->common);
    ch->ld.mapped = calloc(expert_load_most(s) + 1, sizeof *ch->ld.mapped);
    if (!s->slots || !s->common || !ch->ld.mapped) return ERR_NOMEM;
    expert_list_each(&ch->ld.c->config, now, ch->worker, measure_new, ch);
    if (ch->ld.rc < 0 || !ch->ld.own) return ch->ld.rc;
    struct expert_chunk *chunk = calloc(1, sizeof *chunk);
    ch->ld.staging = malloc(ch->ld.largest);
    if (chunk) chunk->memory = s->backend->ops->alloc(s->backend, ch->ld.own, MEM_DEVICE);
    if (!chunk || !chunk->memory || !ch->ld.staging) {
        if (chunk) s->backend->ops->release(s->backend, chunk->memory);
        free(chunk);
        return ERR_NOMEM;
    }
    chunk->bytes = ch->ld.own;
    chunk->next = s->chunks;
    s->chunks = chunk;
    s->held += chunk->bytes;
    ch->ld.next = chunk->memory;
    return 0;
}

static void lock(const struct expert_store *s) {
    if (s->lock) pthread_mutex_lock(s->lock);
}

static void unlock(const struct expert_store *s) {
    if (s->lock) pthread_mutex_unlock(s->lock);
}

static void count_mapped(struct expert_store *s) {
    s->mapped = 0;
    for (int i = 0; s->slots && i < s->first[s->layers] + s->layers * s->levels; i++) {
        int slots = s->first[s->layers];
        const struct blob *b = i < slots ? &s->slots[i].blob : &s->common[i - slots].blob;
        if (b->mapped) s->mapped += sizeof b->header + b->header.payload_bytes;
    }
}

int expert_store_change(struct expert_store *s, const struct checkpoint *c, struct blob_sources *from, enum fmt fmt,
                        const struct placement *was, const struct placement *now, int worker, struct load *load,
                        struct why *why) {
    struct expert_store to = {.backend = s->backend,
                              .layers = s->layers,
                              .levels = s->levels,
                              .lock = s->lock,
                              .memory = s->memory,
                              .held = s->held,
                              .chunks = s->chunks};
    struct change ch = {.ld = {.s = &to, .c = c, .from = from, .fmt = fmt, .load = load}, .was = s, .p = was, .worker = worker};
    int rc = make_room(&ch, now, &to);
    if (rc == ERR_NOMEM) fail(&ch.ld.why, rc, "out of memory: %zu MiB more of experts", ch.ld.own >> 20);
    atomic_store(&load->done, 0);
    atomic_store(&load->total, ch.ld.bytes);
    if (rc >= 0) expert_list_each(&c->config, now, worker, take_one, &ch);
    if (rc >= 0) rc = ch.ld.rc;
    free(ch.ld.staging);
    free(ch.ld.mapped);
    if (rc < 0) {
        if (to.chunks != s->chunks) expert_store_drop_chunk(&to, &to.chunks);
        expert_store_free_tables(&to);
        *why = ch.ld.why;
        return rc;
    }
    struct expert_sizes m = expert_list_sizes(&c->config, fmt, now, worker);
    to.bytes = m.bytes;
    to.common_bytes = m.common_bytes;
    count_mapped(&to);
    lock(s);
    expert_store_free_tables(s);
    *s = to;
    for (struct expert_chunk **at = &s->chunks; *at;) {
        if (is_used(s, *at)) at = &(*at)->next;
        else expert_store_drop_chunk(s, at);
    }
    unlock(s);
    return 0;
}
