/* weights.c - walks the tensor roles once and binds each to device memory. Shapes were checked when the checkpoint was
 * opened. */
#include "worker/weights.h"

#include <stdlib.h>

#include "model/pack.h"

struct loader {
    struct weights *w;
    const struct checkpoint *c;
    enum fmt fmt;
    struct load *load;
    bool out_of_memory;
    int rc; /* ERR_CORRUPT: a pack's tensor is not what its sum says, `why` names it; ERR_CANCELLED */
    struct why why;
};

static void *own(struct loader *ld, size_t bytes) {
    struct weights *w = ld->w;
    if (w->n_owned == w->cap_owned) {
        int cap = w->cap_owned ? 2 * w->cap_owned : 64;
        void **grown = realloc(w->owned, sizeof *grown * (size_t)cap);
        if (!grown) return ld->out_of_memory = true, NULL;
        w->owned = grown;
        w->cap_owned = cap;
    }
    void *p = w->backend->ops->alloc(w->backend, bytes, MEM_DEVICE);
    if (!p) return ld->out_of_memory = true, NULL;
    w->owned[w->n_owned++] = p;
    return p;
}

/* A pack's tensor is what its sum says: nobody else has it, so what is not right is not used. */
static bool is_right(struct loader *ld, enum tensor_role role, int layer) {
    const struct blob_header *h = ld->c->headers_only ? NULL : checkpoint_blob(ld->c, BLOB_TENSOR, layer, (int)role);
    if (h) ld->rc = pack_check(ld->c->pack, h, &ld->why);
    return ld->rc >= 0;
}

/* The tensor as `fmt` in device memory: in place when possible, else converted. NULL when the model has none. */
static const void *load_tensor(struct loader *ld, enum tensor_role role, int layer, enum fmt fmt, struct tensor_want *want) {
    if (ld->out_of_memory || ld->rc < 0 || !model_tensor(&ld->c->config, role, layer, 0, want)) return NULL;
    ld->rc = load_go_on(ld->load, &ld->why);
    if (ld->rc < 0 || !is_right(ld, role, layer)) return NULL;
    struct backend *b = ld->w->backend;
    size_t bytes = mat_held_bytes(fmt, want->rows, want->cols ? want->cols : 1, ld->c->config.quant_block);
    ld->w->bytes += bytes;
    load_add(ld->load, bytes);
    const void *mapped = checkpoint_map(ld->c, role, layer, 0, fmt);
    if (mapped && b->ops->adopt && (mapped = b->ops->adopt(b, mapped, bytes))) {
        ld->w->mapped_bytes += bytes;
        return mapped;
    }
    if (ld->c->headers_only) return own(ld, bytes);
    void *host = malloc(bytes), *dev = own(ld, bytes);
    if (!host) ld->out_of_memory = true;
    if (host && dev) {
        checkpoint_read(ld->c, role, layer, 0, fmt, host);
        b->ops->upload(b, dev, host, bytes);
    }
    free(host);
    return dev;
}

static const float *load_vector(struct loader *ld, enum tensor_role role, int layer) {
    struct tensor_want want;
    return load_tensor(ld, role, layer, FMT_F32, &want);
}

static struct mat load_matrix(struct loader *ld, enum tensor_role role, int layer) {
    struct tensor_want want = {0};
    if (!model_tensor(&ld->c->config, role, layer, 0, &want)) return (struct mat){.fmt = FMT_F32};
    enum fmt fmt = checkpoint_held(ld->c, role, layer, ld->fmt);
    const void *data = load_tensor(ld, role, layer, fmt, &want);
    return data ? mat_held(data, fmt, want.rows, want.cols, ld->c->config.quant_block) : (struct mat){.fmt = fmt};
}

static void load_layer(struct loader *ld, int i) {
    *(ld->w->layer + i) = (struct layer_weights){
        .attn_norm = load_vector(ld, T_ATTN_NORM, i),
        .ffn_norm = load_vector(ld, T_FFN_NORM, i),
        .q = load_matrix(ld, T_Q, i),
        .k = load_matrix(ld, T_K, i),
        .v = load_matrix(ld, T_V, i),
        .o = load_matrix(ld, T_O, i),
        .q_bias = load_vector(ld, T_Q_BIAS, i),
        .k_bias = load_vector(ld, T_K_BIAS, i),
        .v_bias = load_vector(ld, T_V_BIAS, i),
        .o_bias = load_vector(ld, T_O_BIAS, i),
        .q_norm = load_vector(ld, T_Q_NORM, i),
        .k_norm = load_vector(ld, T_K_NORM, i),
        .q_a = load_matrix(ld, T_Q_A, i),
        .q_b = load_matrix(ld, T_Q_B, i),
        .kv_a = load_matrix(ld, T_KV_A, i),
        .kv_b = load_matrix(ld, T_KV_B, i),
        .q_a_bias = load_vector(ld, T_Q_A_BIAS, i),
        .kv_a_bias = load_vector(ld, T_KV_A_BIAS, i),
        .q_a_norm = load_vector(ld, T_Q_A_NORM, i),
        .kv_a_norm = load_vector(ld, T_KV_A_NORM, i),
        .sinks = load_vector(ld, T_SINKS, i),
        .dense = {.gate = load_matrix(ld, T_DENSE_GATE, i),
                  .up = load_matrix(ld, T_DENSE_UP, i),
                  .down = load_matrix(ld, T_DENSE_DOWN, i),
                  .act = ld->c->config.act},
        .router = load_matrix(ld, T_ROUTER, i),
        .router_inner = {load_matrix(ld, T_ROUTER_L1, i), load_matrix(ld, T_ROUTER_L2, i)},
        .router_history = load_matrix(ld, T_ROUTER_HISTORY, i),
        .gru = ld->w->gru.in.data ? &ld->w->gru : NULL,
        .router_bias = load_vector(ld, T_ROUTER_BIAS, i),
        .router_sel_bias = load_vector(ld, T_ROUTER_SEL_BIAS, i),
        .shared = {.gate = load_matrix(ld, T_SHARED_GATE, i),
                   .up = load_matrix(ld, T_SHARED_UP, i),
                   .down = load_matrix(ld, T_SHARED_DOWN, i),
                   .act = ld->c->config.act},
        .shared_scale = load_matrix(ld, T_SHARED_SCALE, i),
        .fusion_q = load_matrix(ld, T_FUSION_Q, i),
        .fusion_k = load_matrix(ld, T_FUSION_K, i),
    };
}

static const float *make_rope(struct loader *ld, int positions) {
    const struct rope *r = &ld->c->config.rope;
    size_t bytes = (size_t)positions * (size_t)r->dims * sizeof(float);
    if (ld->c->headers_only) return own(ld, bytes);
    float *host = malloc(bytes), *dev = own(ld, bytes);
    if (!host) ld->out_of_memory = true;
    if (host && dev) {
        rope_table(r, positions, host);
        ld->w->backend->ops->upload(ld->w->backend, dev, host, bytes);
    }
    free(host);
    return dev;
}

size_t weights_bytes(const struct checkpoint *c, enum fmt fmt) {
    size_t sum = 0;
    for (int layer = 0; layer < c->config.layers; layer++) {
        for (int role = layer ? T_ATTN_NORM : T_EMBED; role < T_ROLE_COUNT; role++) {
            struct tensor_want w;
            if (tensor_in_blob((enum tensor_role)role) || !model_tensor(&c->config, (enum tensor_role)role, layer, 0, &w))
                continue;
            enum fmt f = w.cols ? checkpoint_held(c, (enum tensor_role)role, layer, fmt) : FMT_F32;
            sum += mat_held_bytes(f, w.rows, w.cols ? w.cols : 1, c->config.quant_block);
        }
    }
    return sum;
}

int weights_open(struct weights *w, struct backend *b, const struct checkpoint *c, enum fmt fmt, int max_context,
                 struct load *load, struct why *why) {
    *w = (struct weights){.backend = b};
    struct loader ld = {.w = w, .c = c, .fmt = fmt, .load = load};
    w->layer = calloc((size_t)c->config.layers, sizeof *w->layer);
    ld.out_of_memory = !w->layer;
    w->embed = load_matrix(&ld, T_EMBED, 0);
    w->lm_head = c->config.tied_embeddings ? w->embed : load_matrix(&ld, T_LM_HEAD, 0);
    w->final_norm = load_vector(&ld, T_FINAL_NORM, 0);
    w->gru = (struct router_gru){load_matrix(&ld, T_GRU_IN, 0), load_matrix(&ld, T_GRU_IH, 0),
                                 load_matrix(&ld, T_GRU_HH, 0), load_vector(&ld, T_GRU_IH_BIAS, 0),
                                 load_vector(&ld, T_GRU_HH_BIAS, 0)};
    for (int i = 0; i < c->config.layers && !ld.out_of_memory && ld.rc >= 0; i++) load_layer(&ld, i);
    w->rope = make_rope(&ld, max_context);
    if (!ld.out_of_memory && ld.rc >= 0) return 0;
    size_t mib = w->bytes >> 20;
    weights_close(w);
    if (ld.rc < 0) {
        *why = ld.why;
        return ld.rc;
    }
    return fail(why, ERR_NOMEM, "out of memory after %zu MiB of attention and embedding weights", mib);
}

void weights_close(struct weights *w) {
    for (int i = 0; i < w->n_owned; i++) w->backend->ops->release(w->backend, w->owned[i]);
    free(w->owned);
    free(w->layer);
    *w = (struct weights){0};
}
