/* expert_store.c - see expert_store.h. */
#include "worker/expert_store.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "worker/expert_load.h"

size_t expert_store_bytes(const struct model_config *c, enum fmt fmt, const struct placement *p, int worker) {
    return expert_list_sizes(c, fmt, p, worker).bytes;
}

static void plan_one(void *ctx, const struct expert_ref *ref) { expert_load_plan(ctx, ref); }
static void load_one(void *ctx, const struct expert_ref *ref) { expert_load_one(ctx, ref); }

static int load_all(struct expert_loader *ld, const struct placement *p, int worker, struct why *why) {
    struct expert_store *s = ld->s;
    size_t n = (size_t)s->first[p->layers];
    s->slots = calloc(n, sizeof *s->slots);
    s->common = calloc((size_t)p->layers * (size_t)s->levels, sizeof *s->common);
    ld->mapped = calloc(expert_load_most(s), sizeof *ld->mapped);
    if (!s->slots || !s->common || !ld->mapped) return fail(why, ERR_NOMEM, "out of memory for %zu experts", n);
    expert_list_each(&ld->c->config, p, worker, plan_one, ld);
    if (ld->rc < 0) return *why = ld->why, ld->rc;
    s->held = ld->own;
    s->mapped = ld->bytes - ld->own;
    s->memory = ld->own ? s->backend->ops->alloc(s->backend, ld->own, MEM_DEVICE) : NULL;
    ld->next = s->memory;
    ld->staging = malloc(ld->largest + 1);
    if ((ld->own && !s->memory) || !ld->staging)
        return fail(why, ERR_NOMEM, "out of memory: %zu experts need %zu MiB; use more workers%s", n, ld->own >> 20,
                    fmt_quant(ld->fmt) ? "" : " or --weights q8 or q4");
    if (!ld->c->headers_only) expert_list_each(&ld->c->config, p, worker, load_one, ld);
    if (ld->rc < 0) *why = ld->why;
    return ld->rc;
}

int expert_store_open(struct expert_store *s, struct backend *b, const struct checkpoint *c, struct blob_sources *from,
                      enum fmt fmt, const struct placement *p, int worker, struct load *load, struct why *why) {
    *s = (struct expert_store){.backend = b, .layers = p->layers, .levels = model_levels(&c->config)};
    s->first = calloc((size_t)p->layers + 1, sizeof *s->first);
    if (!s->first) return fail(why, ERR_NOMEM, "out of memory for the slot table");
    for (int l = 0; l < p->layers; l++) s->first[l + 1] = s->first[l] + placement_slots(p, worker, l);
    struct expert_sizes m = expert_list_sizes(&c->config, fmt, p, worker);
    s->bytes = m.bytes;
    s->common_bytes = m.common_bytes;
    if (!s->first[p->layers]) return 0;
    struct expert_loader ld = {.s = s, .c = c, .from = from, .fmt = fmt, .load = load};
    int rc = load_all(&ld, p, worker, why);
    free(ld.staging);
    free(ld.mapped);
    if (rc < 0) expert_store_close(s);
    return rc < 0 ? rc : 0;
}

void expert_store_drop_chunk(struct expert_store *s, struct expert_chunk **at) {
    struct expert_chunk *chunk = *at;
    *at = chunk->next;
    s->held -= chunk->bytes;
    s->backend->ops->release(s->backend, chunk->memory);
    free(chunk);
}

void expert_store_free_tables(struct expert_store *s) {
    free(s->slots);
    free(s->common);
    free(s->first);
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
    while (s->chunks) expert_store_drop_chunk(s, &s->chunks);
    expert_store_free_tables(s);
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
