/* ref.c - the "ref" backend: the table of the operations and nothing else; it keeps no state. */
#include "kernels/ref/ref.h"

#include <stdlib.h>

#include "kernels/host_mem.h"
#include "kernels/quant.h"

static void ref_close(struct backend *b) {
    free(b);
}

static const struct ops ref_ops = {
    .name = "ref",
    .alloc = host_alloc,
    .release = host_release,
    .upload = host_upload,
    .download = host_download,
    .sync = host_sync,
    .adopt = host_adopt,
    .embed = ref_embed,
    .rmsnorm = ref_rmsnorm,
    .linear = ref_linear,
    .linear_blocks = ref_linear_blocks,
    .rope = ref_rope,
    .clamp = ref_clamp,
    .kv_store = ref_kv_store,
    .attention = ref_attention,
    .latent_query = ref_latent_query,
    .latent_value = ref_latent_value,
    .latent_expanded = ref_latent_expanded,
    .ffn = ref_ffn,
    .gate_select = ref_gate_select,
    .gather = ref_gather,
    .combine = ref_combine,
    .dots = ref_dots,
    .fuse = ref_fuse,
    .add = ref_add,
    .logit_stats = ref_logit_stats,
    .weigh = ref_weigh,
    .close = ref_close,
};

int ref_open(struct backend **out, struct why *why) {
    struct backend *b = calloc(1, sizeof *b);
    if (!b) return fail(why, ERR_NOMEM, "out of memory opening the ref backend");
    b->ops = &ref_ops;
    b->threads = 1;
    *out = b;
    return 0;
}

float ref_get(const void *data, enum fmt fmt, int64_t i) {
    return fmt == FMT_F32 ? ((const float *)data)[i] : bf16_to_f32(((const uint16_t *)data)[i]);
}

float ref_weight(struct mat w, int row, int col) {
    int64_t i = (int64_t)row * w.cols + col;
    const uint8_t *bytes = w.data;
    if (fmt_quant(w.fmt)) return quant_weight(w, row, col);
    if (w.fmt == FMT_FP8) {
        int64_t across = (w.cols + w.block - 1) / w.block, square = row / w.block * across + col / w.block;
        return e4m3_to_f32(bytes[i]) * ((const float *)w.scales)[square];
    }
    if (w.fmt == FMT_MXFP4) {
        unsigned nibble = i % 2 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15u;
        return e2m1_to_f32(nibble) * e8m0_to_f32(((const uint8_t *)w.scales)[i / MXFP4_BLOCK]);
    }
    return ref_get(w.data, w.fmt, i);
}
