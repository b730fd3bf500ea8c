/* expert_store.c - composes each blob in a host staging buffer from the checkpoint, checksums it, uploads it whole. */
#include "worker/expert_store.h"

#include "base/clk.h"
#include "base/log.h"
#include "model/pack.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct loader {
    struct expert_store *s;
    const struct checkpoint *c;
    struct blob_sources *from;
    enum fmt fmt;
    unsigned char *staging, *next; /* host, of the largest blob; device, where the next blob goes */
    atomic_ullong *progress;
    const struct blob_header **mapped; /* of what is to be loaded, in order: the pack's blob, or NULL */
    int n_mapped, next_mapped;
    size_t bytes, own, largest; /* to load; of these not mapped; the largest of those */
    int rc;
    struct why why;
};

static int model_layer(const struct model_config *c, int moe_layer) {
    for (int l = 0; l < c->layers; l++)
        if (c->moe_index[l] == moe_layer) return l;
    return -1;
}

static const int16_t *experts_of(const struct placement *p, int worker, int layer, int *n) {
    *n = placement_slots(p, worker, layer);
    return p->slot_expert + p->slot_first[worker * p->layers + layer];
}

struct blob_ref { /* one blob of a worker */
    enum blob_kind kind;
    int moe_layer, layer;
    int expert, slot; /* the level and -1 for a common blob */
};

/* Calls with every blob of a worker: per layer the levels that have a member here, then the experts, by slot. */
static void each_blob(const struct model_config *c, const struct placement *p, int worker,
                      void (*fn)(void *ctx, const struct blob_ref *ref), void *ctx) {
    for (int l = 0, slot = 0; l < p->layers; l++) {
        int n, layer = model_layer(c, l);
        const int16_t *experts = experts_of(p, worker, l, &n);
        for (int level = 0; level < model_levels(c); level++) {
            bool member = false;
            for (int i = 0; i < n; i++) member |= model_expert_level(c, experts[i]) == level;
            if (member) fn(ctx, &(struct blob_ref){BLOB_COMMON, l, layer, level, -1});
        }
        for (int i = 0; i < n; i++) fn(ctx, &(struct blob_ref){BLOB_EXPERT, l, layer, experts[i], slot++});
    }
}

struct measure {
    const struct model_config *c;
    enum fmt fmt;
    size_t bytes, common_bytes;
};

static void measure_blob(void *ctx, const struct blob_ref *ref) {
    struct measure *m = ctx;
    size_t n = blob_bytes(m->c, m->fmt, ref->kind, ref->layer, ref->expert);
    m->bytes += n;
    if (ref->kind == BLOB_COMMON) m->common_bytes += n;
}

static struct measure measure(const struct model_config *c, enum fmt fmt, const struct placement *p, int worker) {
    struct measure m = {.c = c, .fmt = fmt};
    each_blob(c, p, worker, measure_blob, &m);
    return m;
}

size_t expert_store_bytes(const struct model_config *c, enum fmt fmt, const struct placement *p, int worker) {
    return measure(c, fmt, p, worker).bytes;
}

static struct mat matrix(const struct blob *b, enum blob_tensor tensor) {
    const struct blob_part *p = blob_find(&b->header, tensor);
    return p ? mat_held(b->data + p->at, (enum fmt)p->format, (int)p->rows, (int)p->cols, p->block) : (struct mat){0};
}

static const float *vector(const struct blob *b, enum blob_tensor tensor) {
    const struct blob_part *p = blob_find(&b->header, tensor);
    return p ? (const float *)(b->data + p->at) : NULL;
}

static struct ffn ffn_of(const struct model_config *c, const struct blob *b) {
    return (struct ffn){.gate = matrix(b, BLOB_GATE),
                        .up = matrix(b, BLOB_UP),
                        .down = matrix(b, BLOB_DOWN),
                        .gate_bias = vector(b, BLOB_GATE_BIAS),
                        .up_bias = vector(b, BLOB_UP_BIAS),
                        .down_bias = vector(b, BLOB_DOWN_BIAS),
                        .act = c->act};
}

/* From the checkpoint, whatever form it has there. */
static void compose(const struct loader *ld, struct blob_header *h) {
    int64_t start_us = clk_now_us();
    checkpoint_compose(ld->c, h, ld->staging);
    if (ld->from) blob_sources_count(ld->from, SOURCE_DISK, h, start_us);
}

/* The pack's blob if it is what its sum says. */
static const struct blob_header *in_pack(struct loader *ld, const struct blob_ref *ref) {
    const struct blob_header *h = checkpoint_blob(ld->c, ref->kind, ref->layer, ref->expert);
    int64_t start_us = clk_now_us();
    if (!h || ld->c->headers_only) return h;
    if (pack_check(ld->c->pack, h, &ld->why) >= 0) {
        if (ld->from) blob_sources_count(ld->from, SOURCE_PACK, h, start_us);
        return h;
    }
    log_warn("%s", ld->why.text);
    if (ld->from) ld->from->count[SOURCE_PACK].failed++;
    return NULL;
}

/* Before it is loaded: where it is, and what it takes. */
static void plan_blob(struct loader *ld, const struct blob_ref *ref) {
    size_t n = blob_bytes(&ld->c->config, ld->fmt, ref->kind, ref->layer, ref->expert);
    const struct blob_header *h = in_pack(ld, ref);
    bool adopted = h && ld->s->backend->ops->adopt && ld->s->backend->ops->adopt(ld->s->backend, h, n);
    ld->mapped[ld->n_mapped++] = h;
    ld->bytes += n;
    if (adopted) return;
    ld->own += n;
    if (n > ld->largest) ld->largest = n;
}

/* Into the staging memory, from the first that has it. */
static void fetch(struct loader *ld, struct blob_header *h, const struct blob_header *mapped) {
    if (mapped) memcpy(ld->staging, mapped, sizeof *h + h->payload_bytes);
    else if (ld->from && blob_sources_fetch(ld->from, h, ld->staging)) memcpy(h, ld->staging, sizeof *h);
    else if (!ld->c->pack) compose(ld, h);
    else ld->rc = ERR_CORRUPT; /* said when it was looked at */
    if (ld->rc >= 0) memcpy(h, ld->staging, sizeof *h);
}

static void load_blob(struct loader *ld, struct blob *b, const struct blob_ref *ref) {
    struct blob_header *h = &b->header;
    size_t bytes = blob_describe(h, &ld->c->config, ld->fmt, ref->kind, ref->layer, ref->expert);
    const struct blob_header *mapped = ld->mapped[ld->next_mapped++];
    const struct ops *ops = ld->s->backend->ops;
    const void *adopted = mapped && ops->adopt ? ops->adopt(ld->s->backend, mapped, bytes) : NULL;
    if (!bytes || ld->rc < 0) return;
    if (adopted) {
        *b = (struct blob){.header = *mapped, .data = (unsigned char *)(uintptr_t)adopted, .mapped = true};
        atomic_fetch_add(ld->progress, bytes);
        return;
    }
    fetch(ld, h, mapped);
    if (ld->rc < 0) return;
    b->data = ld->next;
    ld->next += bytes;
    ld->s->backend->ops->upload(ld->s->backend, b->data, ld->staging, bytes);
    atomic_fetch_add(ld->progress, bytes);
}

static void load_one(void *ctx, const struct blob_ref *ref) {
    struct loader *ld = ctx;
    struct expert_store *s = ld->s;
    if (ref->kind == BLOB_COMMON) {
        struct expert_common *common = &s->common[ref->moe_layer * s->levels + ref->expert];
        load_blob(ld, &common->blob, ref);
        common->ffn = ffn_of(&ld->c->config, &common->blob);
        return;
    }
    struct expert_slot *e = &s->slots[ref->slot];
    const struct expert_common *common =
        &s->common[ref->moe_layer * s->levels + model_expert_level(&ld->c->config, ref->expert)];
    load_blob(ld, &e->blob, ref);
    e->ffn = ffn_of(&ld->c->config, &e->blob);
    e->common = common->blob.data ? &common->ffn : NULL;
    e->conf = vector(&e->blob, BLOB_CONF);
}

static void plan_one(void *ctx, const struct blob_ref *ref) { plan_blob(ctx, ref); }

/* How many blobs a worker may have to load, at most. */
static size_t most_blobs(const struct expert_store *s) {
    return (size_t)s->first[s->layers] + (size_t)s->layers * (size_t)s->levels;
}

static void count_mapped(struct expert_store *s) {
    s->mapped = 0;
    for (int i = 0; s->slots && i < s->first[s->layers] + s->layers * s->levels; i++) {
        int slots = s->first[s->layers];
        const struct blob *b = i < slots ? &s->slots[i].blob : &s->common[i - slots].blob;
        if (b->mapped) s->mapped += sizeof b->header + b->header.payload_bytes;
    }
}

static int load_all(struct loader *ld, const struct placement *p, int worker, struct why *why) {
    struct expert_store *s = ld->s;
    size_t n = (size_t)s->first[p->layers];
    s->slots = calloc(n, sizeof *s->slots);
    s->common = calloc((size_t)p->layers * (size_t)s->levels, sizeof *s->common);
    ld->mapped = calloc(most_blobs(s), sizeof *ld->mapped);
    if (!s->slots || !s->common || !ld->mapped) return fail(why, ERR_NOMEM, "out of memory for %zu experts", n);
    each_blob(&ld->c->config, p, worker, plan_one, ld);
    s->held = ld->own;
    s->mapped = ld->bytes - ld->own;
    s->memory = ld->own ? s->backend->ops->alloc(s->backend, ld->own, MEM_DEVICE) : NULL;
    ld->next = s->memory;
    ld->staging = malloc(ld->largest + 1);
    if ((ld->own && !s->memory) || !ld->staging)
        return fail(why, ERR_NOMEM, "out of memory: %zu experts need %zu MiB; use more workers or --weights bf16", n,
                    ld->own >> 20);
    if (!ld->c->headers_only) each_blob(&ld->c->config, p, worker, load_one, ld);
    if (ld->rc < 0) *why = ld->why;
    return ld->rc;
}

int expert_store_open(struct expert_store *s, struct backend *b, const struct checkpoint *c, struct blob_sources *from,
                      enum fmt fmt, const struct placement *p, int worker, atomic_ullong *progress, struct why *why) {
    *s = (struct expert_store){.backend = b, .layers = p->layers, .levels = model_levels(&c->config)};
    s->first = calloc((size_t)p->layers + 1, sizeof *s->first);
    if (!s->first) return fail(why, ERR_NOMEM, "out of memory for the slot table");
    for (int l = 0; l < p->layers; l++) s->first[l + 1] = s->first[l] + placement_slots(p, worker, l);
    struct measure m = measure(&c->config, fmt, p, worker);
    s->bytes = m.bytes;
    s->common_bytes = m.common_bytes;
    if (!s->first[p->layers]) return 0;
    struct loader ld = {.s = s, .c = c, .from = from, .fmt = fmt, .progress = progress};
    int rc = load_all(&ld, p, worker, why);
    free(ld.staging);
    free(ld.mapped);
    if (rc < 0) expert_store_close(s);
    return rc < 0 ? rc : 0;
}

/* ---- change ---- */

static void drop_chunk(struct expert_store *s, struct expert_chunk **at) {
    struct expert_chunk *chunk = *at;
    *at = chunk->next;
    s->held -= chunk->bytes;
    s->backend->ops->release(s->backend, chunk->memory);
    free(chunk);
}

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
    struct loader ld;
    const struct expert_store *was;
    const struct placement *p; /* that it had */
    int worker;
};

/* The blob where it is already, or NULL. */
static const struct blob *find_blob(const struct change *ch, const struct blob_ref *ref) {
    const struct expert_store *was = ch->was;
    if (ref->kind == BLOB_COMMON) {
        const struct blob *b = was->common ? &was->common[ref->moe_layer * was->levels + ref->expert].blob : NULL;
        return b && b->data ? b : NULL;
    }
    int n;
    const int16_t *experts = experts_of(ch->p, ch->worker, ref->moe_layer, &n);
    for (int i = 0; i < n; i++)
        if (experts[i] == ref->expert) return &was->slots[was->first[ref->moe_layer] + i].blob;
    return NULL;
}

static void measure_new(void *ctx, const struct blob_ref *ref) {
    struct change *ch = ctx;
    if (!find_blob(ch, ref)) plan_blob(&ch->ld, ref);
}

static void take_one(void *ctx, const struct blob_ref *ref) {
    struct change *ch = ctx;
    struct expert_store *s = ch->ld.s;
    const struct blob *b = find_blob(ch, ref);
    if (!b) return load_one(&ch->ld, ref);
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
    ch->ld.mapped = calloc(most_blobs(s) + 1, sizeof *ch->ld.mapped);
    if (!s->slots || !s->common || !ch->ld.mapped) return ERR_NOMEM;
    each_blob(&ch->ld.c->config, now, ch->worker, measure_new, ch);
    if (!ch->ld.own) return 0;
    struct expert_chunk *chunk = calloc(1, sizeof *chunk);
    ch->ld.staging = malloc(ch->ld.largest);
    if (chunk) chunk->memory = s->backend->ops->alloc(s->backend, ch->ld.own, MEM_DEVICE);
    if (!chunk || !chunk->memory || !ch->ld.staging) {
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

static void free_tables(struct expert_store *s) {
    free(s->slots);
    free(s->common);
    free(s->first);
}

int expert_store_change(struct expert_store *s, const struct checkpoint *c, struct blob_sources *from, enum fmt fmt,
                        const struct placement *was, const struct placement *now, int worker, atomic_ullong *done,
                        atomic_ullong *total, struct why *why) {
    struct expert_store to = {.backend = s->backend,
                              .layers = s->layers,
                              .levels = s->levels,
                              .lock = s->lock,
                              .memory = s->memory,
                              .held = s->held,
                              .chunks = s->chunks};
    struct change ch = {
        .ld = {.s = &to, .c = c, .from = from, .fmt = fmt, .progress = done}, .was = s, .p = was, .worker = worker};
    int rc = make_room(&ch, now, &to);
    if (rc < 0) fail(&ch.ld.why, rc, "out of memory: %zu MiB more of experts", ch.ld.own >> 20);
    atomic_store(done, 0);
    atomic_store(total, ch.ld.bytes);
    if (rc >= 0) each_blob(&c->config, now, worker, take_one, &ch);
    if (rc >= 0) rc = ch.ld.rc;
    free(ch.ld.staging);
    free(ch.ld.mapped);
    if (rc < 0) {
        if (to.chunks != s->chunks) drop_chunk(&to, &to.chunks);
        free_tables(&to);
        *why = ch.ld.why;
        return rc;
    }
    struct measure m = measure(&c->config, fmt, now, worker);
    to.bytes = m.bytes;
    to.common_bytes = m.common_bytes;
    count_mapped(&to);
    lock(s);
    free_tables(s);
    *s = to;
    for (struct expert_chunk **at = &s->chunks; *at;) {
        if (is_used(s, *at)) at = &(*at)->next;
        else drop_chunk(s, at);
    }
    unlock(s);
    return 0;
}

const struct blob *expert_store_find(const struct expert_store *s, enum blob_kind kind, uint32_t layer, uint32_t expert) {
    bool common = kind == BLOB_COMMON;
    if (!s->slots) return NULL;
    int n = common ? s->layers * s->levels : s->first[s->layers];
    for (int i = 0; i < n; i++) {
        const struct blob *b = common ? &s->common[i].blob : &s->slots[i].blob;
        if (b->data && b->header.kind == (uint32_t)kind && b->header.layer == layer && b->header.expert == expert) return b;
    }
    return NULL;
}

void expert_store_close(struct expert_store *s) {
    if (s->backend) s->backend->ops->release(s->backend, s->memory);
    while (s->chunks) drop_chunk(s, &s->chunks);
    free_tables(s);
    *s = (struct expert_store){0};
}

static int verify(const struct expert_store *s, const struct blob *b, struct why *why) {
    const struct blob_header *want = &b->header;
    size_t bytes = sizeof *want + want->payload_bytes;
    unsigned char *copy = malloc(bytes);
    if (!copy) return fail(why, ERR_NOMEM, "out of memory while verifying an expert");
    s->backend->ops->download(s->backend, copy, b->data, bytes);
    bool same = !memcmp(copy, want, sizeof *want) && XXH3_64bits(copy + sizeof *want, want->payload_bytes) == want->checksum;
    free(copy);
    if (same) return 0;
    return fail(why, ERR_CORRUPT, "layer %u %s %u: the blob does not match its checksum", want->layer,
                want->kind == BLOB_COMMON ? "common rows of level" : "expert", want->expert);
}

int expert_store_verify(const struct expert_store *s, int slot, struct why *why) {
    int layer = 0;
    while (s->first[layer + 1] <= slot) layer++;
    int rc = verify(s, &s->slots[slot].blob, why);
    for (int l = layer * s->levels; rc >= 0 && l < (layer + 1) * s->levels; l++)
        if (s->slots[slot].common == &s->common[l].ffn) rc = verify(s, &s->common[l].blob, why);
    return rc;
}
