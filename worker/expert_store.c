/* expert_store.c - composes each blob in a host staging buffer from the checkpoint, checksums it, uploads it whole. */
#include "worker/expert_store.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

_Static_assert(sizeof(struct blob_header) == 128, "blob header is a file format");

static size_t round64(size_t n) { return (n + 63) / 64 * 64; }

size_t blob_bytes(const struct model_config *c, enum fmt fmt) {
    size_t matrix = round64((size_t)c->hidden * (size_t)c->expert_ffn * fmt_bytes(fmt));
    return sizeof(struct blob_header) + 3 * matrix;
}

static void describe(struct blob_header *h, const struct model_config *c, enum fmt fmt, int layer, int expert) {
    size_t matrix = round64((size_t)c->hidden * (size_t)c->expert_ffn * fmt_bytes(fmt));
    *h = (struct blob_header){.magic = BLOB_MAGIC,
                              .version = BLOB_VERSION,
                              .layer = (uint32_t)layer,
                              .expert = (uint32_t)expert,
                              .format = (uint32_t)fmt,
                              .layout = BLOB_LAYOUT_ROWS,
                              .hidden = (uint32_t)c->hidden,
                              .inner = (uint32_t)c->expert_ffn,
                              .content_version = 1,
                              .payload_bytes = 3 * matrix,
                              .gate_at = sizeof *h,
                              .up_at = sizeof *h + matrix,
                              .down_at = sizeof *h + 2 * matrix};
}

static void load_slot(struct expert_store *s, const struct checkpoint *c, enum fmt fmt, int layer, int expert,
                      unsigned char *staging, int slot) {
    struct expert_slot *e = &s->slots[slot];
    struct blob_header *h = &e->header;
    const struct model_config *m = &c->config;
    describe(h, m, fmt, layer, expert);
    memset(staging, 0, s->stride);
    checkpoint_read(c, T_EXPERT_GATE, layer, expert, fmt, staging + h->gate_at);
    checkpoint_read(c, T_EXPERT_UP, layer, expert, fmt, staging + h->up_at);
    checkpoint_read(c, T_EXPERT_DOWN, layer, expert, fmt, staging + h->down_at);
    h->checksum = XXH3_64bits(staging + sizeof *h, h->payload_bytes);
    memcpy(staging, h, sizeof *h);
    unsigned char *blob = (unsigned char *)s->memory + (size_t)slot * s->stride;
    s->backend->ops->upload(s->backend, blob, staging, s->stride);
    e->ffn.gate = (struct mat){blob + h->gate_at, fmt, m->expert_ffn, m->hidden};
    e->ffn.up = (struct mat){blob + h->up_at, fmt, m->expert_ffn, m->hidden};
    e->ffn.down = (struct mat){blob + h->down_at, fmt, m->hidden, m->expert_ffn};
}

static int model_layer(const struct model_config *c, int moe_layer) {
    for (int l = 0; l < c->layers; l++)
        if (c->moe_index[l] == moe_layer) return l;
    return -1;
}

int expert_store_open(struct expert_store *s, struct backend *b, const struct checkpoint *c, enum fmt fmt,
                      const struct placement *p, int worker, atomic_ullong *progress, struct why *why) {
    *s = (struct expert_store){.backend = b, .layers = p->layers, .stride = blob_bytes(&c->config, fmt)};
    s->first = calloc((size_t)p->layers + 1, sizeof *s->first);
    if (!s->first) return fail(why, ERR_NOMEM, "out of memory for the slot table");
    for (int l = 0; l < p->layers; l++) s->first[l + 1] = s->first[l] + placement_slots(p, worker, l);
    size_t n = (size_t)s->first[p->layers];
    s->bytes = n * s->stride;
    if (!n) return 0;
    s->slots = calloc(n, sizeof *s->slots);
    s->memory = b->ops->alloc(b, s->bytes, MEM_DEVICE);
    unsigned char *staging = malloc(s->stride);
    if (!s->slots || !s->memory || !staging) {
        size_t mib = s->bytes >> 20;
        free(staging);
        expert_store_close(s);
        return fail(why, ERR_NOMEM, "out of memory: %zu experts need %zu MiB; use more workers or --weights bf16", n, mib);
    }
    for (int l = 0; l < p->layers; l++) {
        const int16_t *experts = p->slot_expert + p->slot_first[worker * p->layers + l];
        for (int i = 0; i < s->first[l + 1] - s->first[l]; i++) {
            load_slot(s, c, fmt, model_layer(&c->config, l), experts[i], staging, s->first[l] + i);
            atomic_fetch_add(progress, s->stride);
        }
    }
    free(staging);
    return 0;
}

void expert_store_close(struct expert_store *s) {
    if (s->backend) s->backend->ops->release(s->backend, s->memory);
    free(s->slots);
    free(s->first);
    *s = (struct expert_store){0};
}

int expert_store_verify(const struct expert_store *s, int slot, struct why *why) {
    const struct blob_header *want = &s->slots[slot].header;
    unsigned char *copy = malloc(s->stride);
    if (!copy) return fail(why, ERR_NOMEM, "out of memory while verifying an expert");
    s->backend->ops->download(s->backend, copy, (unsigned char *)s->memory + (size_t)slot * s->stride, s->stride);
    bool same = !memcmp(copy, want, sizeof *want) && XXH3_64bits(copy + sizeof *want, want->payload_bytes) == want->checksum;
    free(copy);
    if (same) return 0;
    return fail(why, ERR_CORRUPT, "layer %u expert %u: the blob in slot %d does not match its checksum", want->layer,
                want->expert, slot);
}
