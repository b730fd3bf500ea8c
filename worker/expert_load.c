/* expert_load.c - see expert_load.h. What is not mapped goes through a staging buffer: a whole blob there, then one upload. */
#include "worker/expert_load.h"

#include <string.h>

#include "base/clk.h"
#include "base/log.h"
#include "model/pack.h"

size_t expert_load_most(const struct expert_store *s) {
    return (size_t)s->first[s->layers] + (size_t)s->layers * (size_t)s->levels;
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
static void compose(const struct expert_loader *ld, struct blob_header *h) {
    int64_t start_us = clk_now_us();
    checkpoint_compose(ld->c, h, ld->staging, NULL, NULL);
    if (ld->from) blob_sources_count(ld->from, SOURCE_DISK, h, start_us);
}

/* The pack's blob if it is what its sum says. */
static const struct blob_header *in_pack(struct expert_loader *ld, const struct expert_ref *ref) {
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

void expert_load_plan(struct expert_loader *ld, const struct expert_ref *ref) {
    if (ld->rc < 0 || (ld->rc = load_go_on(ld->load, &ld->why)) < 0) return;
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
static void fetch(struct expert_loader *ld, struct blob_header *h, const struct blob_header *mapped) {
    if (mapped) memcpy(ld->staging, mapped, sizeof *h + h->payload_bytes);
    else if (ld->from && blob_sources_fetch(ld->from, h, ld->staging)) memcpy(h, ld->staging, sizeof *h);
    else if (!ld->c->pack) compose(ld, h);
    else ld->rc = ERR_CORRUPT; /* said when it was looked at */
    if (ld->rc >= 0) memcpy(h, ld->staging, sizeof *h);
}

static void load_blob(struct expert_loader *ld, struct blob *b, const struct expert_ref *ref) {
    struct blob_header *h = &b->header;
    size_t bytes = blob_describe(h, &ld->c->config, ld->fmt, ref->kind, ref->layer, ref->expert);
    const struct blob_header *mapped = ld->mapped[ld->next_mapped++];
    const struct ops *ops = ld->s->backend->ops;
    const void *adopted = mapped && ops->adopt ? ops->adopt(ld->s->backend, mapped, bytes) : NULL;
    if (!bytes) return;
    if (adopted) {
        *b = (struct blob){.header = *mapped, .data = (unsigned char *)(uintptr_t)adopted, .mapped = true};
        load_add(ld->load, bytes);
        return;
    }
    fetch(ld, h, mapped);
    if (ld->rc < 0) return;
    b->data = ld->next;
    ld->next += bytes;
    ld->s->backend->ops->upload(ld->s->backend, b->data, ld->staging, bytes);
    load_add(ld->load, bytes);
}

void expert_load_one(struct expert_loader *ld, const struct expert_ref *ref) {
    struct expert_store *s = ld->s;
    if (ld->rc < 0 || (ld->rc = load_go_on(ld->load, &ld->why)) < 0) return;
    if (ref->kind == BLOB_COMMON) {
        struct expert_common *common = &s->common[ref->moe_layer * s->levels + ref->expert];
        load_blob(ld, &common->blob, ref);
        if (ld->rc < 0) return;
        common->ffn = ffn_of(&ld->c->config, &common->blob);
        return;
    }
    struct expert_slot *e = &s->slots[ref->slot];
    const struct expert_common *common =
        &s->common[ref->moe_layer * s->levels + model_expert_level(&ld->c->config, ref->expert)];
    load_blob(ld, &e->blob, ref);
    if (ld->rc < 0) return;
    e->ffn = ffn_of(&ld->c->config, &e->blob);
    e->common = common->blob.data ? &common->ffn : NULL;
    e->conf = vector(&e->blob, BLOB_CONF);
}
