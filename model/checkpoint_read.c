/* checkpoint_read.c - tensors out of a checkpoint that has been checked: whole, part of a larger one, or in blocks with
 * scales. */
#include "model/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "model/convert.h"
#include "model/pack.h"

enum { TILE = 32 };

static const struct st_tensor *find(const struct checkpoint *c, enum tensor_role role, int layer, int expert,
                                    struct tensor_want *w) {
    if (!model_tensor(&c->config, role, layer, expert, w))
        BUG("checkpoint: %s has no tensor of role %d, layer %d, expert %d", c->config.family, (int)role, layer, expert);
    const struct st_tensor *t = st_find(c->tensors, w->name);
    if (!t) BUG("checkpoint: tensor %s was there when it was opened", w->name);
    return t;
}

const struct st_tensor *checkpoint_scales(const struct st_set *s, const struct tensor_want *w) {
    char name[sizeof w->name + 16];
    size_t len = strlen(w->name);
    if (w->packed) snprintf(name, sizeof name, "%.*s_scales", (int)(len - strlen("_blocks")), w->name);
    else snprintf(name, sizeof name, "%s_scale_inv", w->name);
    return st_find(s, name);
}

static const struct st_tensor *need_scales(const struct checkpoint *c, const struct tensor_want *w) {
    const struct st_tensor *t = checkpoint_scales(c->tensors, w);
    if (!t) BUG("checkpoint: the scales of %s were there when it was opened", w->name);
    return t;
}

static enum fmt on_disk(const struct tensor_want *w, const struct st_tensor *t) {
    if (w->packed) return FMT_MXFP4;
    return t->dtype == ST_F8_E4M3 ? FMT_FP8 : t->dtype == ST_BF16 ? FMT_BF16 : FMT_F32; /* F16 widens exactly */
}

/* Of a pack: the part of a blob that is this tensor. */
static const struct blob_part *packed(const struct checkpoint *c, enum tensor_role role, int layer, int expert,
                                      const struct blob_header **blob) {
    static const enum blob_kind kinds[] = {BLOB_EXPERT, BLOB_COMMON};
    *blob = pack_blob(c->pack, BLOB_TENSOR, layer, (int)role);
    if (*blob) return &(*blob)->part[0];
    for (int k = 0; k < 2; k++) {
        *blob = pack_blob(c->pack, kinds[k], layer, expert);
        for (uint32_t i = 0; *blob && i < (*blob)->n_parts; i++)
            if (blob_role(kinds[k], (enum blob_tensor)(*blob)->part[i].tensor) == role) return &(*blob)->part[i];
    }
    BUG("pack: no tensor of role %d, layer %d, expert %d", (int)role, layer, expert);
}

const struct blob_header *checkpoint_blob(const struct checkpoint *c, enum blob_kind kind, int layer, int expert) {
    return c->pack ? pack_blob(c->pack, kind, layer, expert) : NULL;
}

enum fmt checkpoint_held(const struct checkpoint *c, enum tensor_role role, int layer, enum fmt wish) {
    return checkpoint_format(c, role, layer, 0, model_keeps_f32(role) ? FMT_F32 : wish);
}

enum fmt checkpoint_format(const struct checkpoint *c, enum tensor_role role, int layer, int expert, enum fmt wish) {
    struct tensor_want w;
    const struct blob_header *blob;
    if (c->pack) return (enum fmt)packed(c, role, layer, expert, &blob)->format;
    if (wish != FMT_STORED || tensor_in_blob(role)) return model_format(&c->config, role, wish);
    const struct st_tensor *t = find(c, role, layer, expert, &w);
    const enum fmt f = on_disk(&w, t);
    return f == FMT_FP8 && role == T_KV_B ? FMT_F32 : f; /* the latent products read it by head, from plain formats */
}

static bool whole_rows(const struct tensor_want *w) { return w->col_step == 1 && w->row_step == (w->cols ? w->cols : 1); }

/* Rows and columns that lie apart, tile by tile so that neither side jumps through memory for long. */
static void read_apart(const struct tensor_want *w, const struct st_tensor *t, enum fmt fmt, char *dst, int first, int rows) {
    const int cols = w->cols ? w->cols : 1, size = st_dtype_bytes(t->dtype);
    char line[TILE * 8];
    for (int r0 = 0; r0 < rows; r0 += TILE) {
        for (int c0 = 0; c0 < cols; c0 += TILE) {
            const int n = cols - c0 < TILE ? cols - c0 : TILE;
            for (int r = r0; r < rows && r < r0 + TILE; r++) {
                const char *from = (const char *)t->data + (w->first + (first + r) * w->row_step + c0 * w->col_step) * size;
                for (int i = 0; i < n; i++) memcpy(line + i * size, from + i * w->col_step * size, (size_t)size);
                convert(dst + ((size_t)r * (size_t)cols + (size_t)c0) * fmt_bytes(fmt), fmt, line, t->dtype, (size_t)n);
            }
        }
    }
}

/* One row of a block format: its bytes, and where its scales are. */
static const uint8_t *mxfp4_row(const struct tensor_want *w, const struct st_tensor *t, int r) {
    return (const uint8_t *)t->data + (w->first + r * w->row_step) / 2;
}
static const uint8_t *mxfp4_scales(const struct tensor_want *w, const struct st_tensor *scales, int r) {
    return (const uint8_t *)scales->data + (w->first + r * w->row_step) / MXFP4_BLOCK;
}

static float *fp8_scales(const struct checkpoint *c, const struct tensor_want *w, float *dst) {
    size_t n = mat_scale_bytes(FMT_FP8, w->rows, w->cols, c->config.quant_block) / sizeof *dst;
    const struct st_tensor *t = need_scales(c, w);
    if (!dst && !(dst = malloc(n * sizeof *dst))) die("out of memory for the scales of %s", w->name);
    convert(dst, FMT_F32, t->data, t->dtype, n);
    return dst;
}

static void put(char *dst, enum fmt fmt, size_t i, float v) {
    const uint16_t half = bf16_from_f32(v);
    if (fmt == FMT_F32) memcpy(dst + i * sizeof v, &v, sizeof v);
    else memcpy(dst + i * sizeof half, &half, sizeof half);
}

static void expand_fp8(const struct tensor_source *s, enum fmt fmt, char *dst, int first, int rows) {
    const struct tensor_want *w = &s->want;
    const int block = s->checkpoint->config.quant_block, across = (w->cols + block - 1) / block;
    float number[256];
    for (int i = 0; i < 256; i++) number[i] = e4m3_to_f32((uint8_t)i);
    for (int r = 0; r < rows; r++) {
        const uint8_t *row = (const uint8_t *)s->tensor->data + (size_t)(first + r) * (size_t)w->cols;
        const float *scale = s->scales + (size_t)((first + r) / block) * (size_t)across;
        for (int k = 0; k < w->cols; k++)
            put(dst, fmt, (size_t)r * (size_t)w->cols + (size_t)k, number[row[k]] * scale[k / block]);
    }
}

static void expand_mxfp4(const struct tensor_source *s, enum fmt fmt, char *dst, int first, int rows) {
    const struct tensor_want *w = &s->want;
    const struct st_tensor *scales = need_scales(s->checkpoint, w);
    float number[16];
    for (unsigned i = 0; i < 16; i++) number[i] = e2m1_to_f32(i);
    for (int r = 0; r < rows; r++) {
        const uint8_t *row = mxfp4_row(w, s->tensor, first + r), *scale = mxfp4_scales(w, scales, first + r);
        for (int k = 0; k < w->cols; k += MXFP4_BLOCK) {
            const float of = e8m0_to_f32(scale[k / MXFP4_BLOCK]);
            for (int i = k; i < k + MXFP4_BLOCK; i += 2) {
                const size_t at = (size_t)r * (size_t)w->cols + (size_t)i;
                put(dst, fmt, at, number[row[i / 2] & 15] * of);
                put(dst, fmt, at + 1, number[row[i / 2] >> 4] * of);
            }
        }
    }
}

static struct tensor_source open_source(const struct checkpoint *c, enum tensor_role role, int layer, int expert) {
    struct tensor_source s = {.checkpoint = c};
    s.tensor = find(c, role, layer, expert, &s.want);
    if (on_disk(&s.want, s.tensor) == FMT_FP8) s.scales = fp8_scales(c, &s.want, NULL);
    return s;
}

static void read_kept(const struct tensor_source *s, enum fmt fmt, char *dst, int first, int rows) {
    const size_t bytes = fmt_bytes(fmt), cols = (size_t)(s->want.cols ? s->want.cols : 1);
    struct tensor_source whole = *s;
    *(s->across ? &whole.want.cols : &whole.want.rows) = s->of;
    whole.kept = NULL;
    char *line = s->across ? malloc(bytes * (size_t)s->of) : NULL;
    if (s->across && !line) die("out of memory for a row of %s", s->want.name);
    for (int r = 0; r < rows; r++, dst += bytes * cols) {
        if (!s->across) {
            tensor_read_rows(&whole, fmt, dst, s->kept[first + r], 1);
            continue;
        }
        tensor_read_rows(&whole, fmt, line, first + r, 1);
        for (size_t i = 0; i < cols; i++) memcpy(dst + i * bytes, line + (size_t)s->kept[i] * bytes, bytes);
    }
    free(line);
}

void tensor_read_rows(const struct tensor_source *s, enum fmt fmt, void *dst, int first, int rows) {
    if (s->kept) {
        read_kept(s, fmt, dst, first, rows);
        return;
    }
    const struct tensor_want *w = &s->want;
    const struct st_tensor *t = s->tensor;
    const enum fmt held = on_disk(w, t);
    if (held == FMT_FP8) expand_fp8(s, fmt, dst, first, rows);
    else if (held == FMT_MXFP4) expand_mxfp4(s, fmt, dst, first, rows);
    else if (!whole_rows(w)) read_apart(w, t, fmt, dst, first, rows);
    else
        convert(dst, fmt, (const char *)t->data + (w->first + first * w->row_step) * st_dtype_bytes(t->dtype), t->dtype,
                (size_t)rows * (size_t)(w->cols ? w->cols : 1));
}

/* The same bytes, rows together, then the scales: kernels.h's piece. */
static void copy_blocks(const struct checkpoint *c, const struct tensor_want *w, const struct st_tensor *t, enum fmt fmt,
                        char *dst) {
    char *scales_to = dst + mat_scales_at(fmt, w->rows, w->cols);
    if (fmt == FMT_FP8) {
        memcpy(dst, t->data, mat_bytes(fmt, w->rows, w->cols));
        fp8_scales(c, w, (float *)scales_to);
        return;
    }
    const struct st_tensor *scales = need_scales(c, w);
    const size_t bytes = mat_row_bytes(fmt, w->cols), n = (size_t)w->cols / MXFP4_BLOCK;
    for (int r = 0; r < w->rows; r++) {
        memcpy(dst + (size_t)r * bytes, mxfp4_row(w, t, r), bytes);
        memcpy(scales_to + (size_t)r * n, mxfp4_scales(w, scales, r), n);
    }
}

static bool has_neurons(enum tensor_role r) { return r >= T_EXPERT_GATE && r <= T_EXPERT_UP_BIAS; }

/* Of a tensor of an expert, what belongs to the neurons that stay. */
static void narrow(struct tensor_source *s, const struct pruning *p, enum tensor_role role, int layer, int expert) {
    const struct model_config *c = &s->checkpoint->config;
    const size_t at = (size_t)c->moe_index[layer] * (size_t)c->gate.experts + (size_t)expert;
    s->kept = p->kept_neurons + at * (size_t)p->neurons;
    s->across = role == T_EXPERT_DOWN;
    int *size = s->across ? &s->want.cols : &s->want.rows;
    s->of = *size;
    *size = p->neurons;
}

static void read_toward(const struct checkpoint *c, enum tensor_role role, int layer, int expert, enum fmt fmt, void *dst,
                        const float *u, const struct pruning *p) {
    if (c->headers_only) return;
    if (c->pack) {
        const struct blob_header *blob;
        const struct blob_part *part = packed(c, role, layer, expert, &blob);
        if (part->format != (uint32_t)fmt) BUG("pack: role %d as %s, which it is not", (int)role, fmt_name(fmt));
        memcpy(dst, (const char *)blob + part->at, part->bytes);
        return;
    }
    struct tensor_source s = open_source(c, role, layer, expert);
    const enum fmt held = on_disk(&s.want, s.tensor);
    if (p && p->kept_neurons && has_neurons(role)) narrow(&s, p, role, layer, expert);
    if (fmt_quant(fmt)) tensor_quantise(&s, fmt, dst, u);
    else if (fmt_plain(fmt)) tensor_read_rows(&s, fmt, dst, 0, s.want.rows);
    else if (fmt != held) BUG("checkpoint: %s as %s, which it is not", s.want.name, fmt_name(fmt));
    else copy_blocks(c, &s.want, s.tensor, fmt, dst);
    free(s.scales);
}

void checkpoint_read(const struct checkpoint *c, enum tensor_role role, int layer, int expert, enum fmt fmt, void *dst) {
    read_toward(c, role, layer, expert, fmt, dst, NULL, NULL);
}

/* One number per expert or one row: of those that stay. f32, as all that routes. */
static void read_routers(const struct checkpoint *c, enum tensor_role role, int layer, const struct pruning *p, float *dst) {
    struct tensor_want w;
    find(c, role, layer, 0, &w);
    const size_t cols = (size_t)(w.cols ? w.cols : 1);
    float *all = malloc(sizeof *all * (size_t)w.rows * cols);
    if (!all) die("out of memory for %s", w.name);
    checkpoint_read(c, role, layer, 0, FMT_F32, all);
    for (int i = 0; i < p->experts; i++) {
        const int from = p->kept[c->config.moe_index[layer] * p->experts + i];
        memcpy(dst + (size_t)i * cols, all + (size_t)from * cols, sizeof *all * cols);
    }
    free(all);
}

static bool row_per_expert(enum tensor_role r) { return r == T_ROUTER || r == T_ROUTER_BIAS || r == T_ROUTER_SEL_BIAS; }

void checkpoint_compose(const struct checkpoint *c, struct blob_header *h, void *out, const struct rounding *r,
                        const struct pruning *p) {
    memset(out, 0, sizeof *h + h->payload_bytes);
    for (uint32_t i = 0; i < h->n_parts; i++) {
        const struct blob_part *part = &h->part[i];
        const bool alone = h->kind == BLOB_TENSOR;
        const enum tensor_role role =
            alone ? (enum tensor_role)h->expert : blob_role((enum blob_kind)h->kind, (enum blob_tensor)part->tensor);
        const int layer = (int)h->layer;
        const enum fmt fmt = (enum fmt)part->format;
        int expert = alone ? 0 : (int)h->expert;
        if (p && p->kept && row_per_expert(role)) {
            read_routers(c, role, layer, p, (float *)(void *)((char *)out + part->at));
            continue;
        }
        if (p && p->kept && h->kind == BLOB_EXPERT) expert = p->kept[c->config.moe_index[layer] * p->experts + expert];
        const float *u = r && fmt_quant(fmt) ? r->factor(r->ctx, role, layer, expert) : NULL;
        read_toward(c, role, layer, expert, fmt, (char *)out + part->at, u, p);
    }
    h->checksum = XXH3_64bits((char *)out + sizeof *h, h->payload_bytes);
    memcpy(out, h, sizeof *h);
}

const void *checkpoint_map(const struct checkpoint *c, enum tensor_role role, int layer, int expert, enum fmt fmt) {
    struct tensor_want w;
    if (c->pack) {
        const struct blob_header *blob;
        const struct blob_part *p = packed(c, role, layer, expert, &blob);
        return p->format == (uint32_t)fmt ? (const char *)blob + p->at : NULL;
    }
    const struct st_tensor *t = find(c, role, layer, expert, &w);
    if (!fmt_plain(fmt) || w.packed || !whole_rows(&w) || convert_same(t->dtype) != (int)fmt) return NULL;
    const char *data = (const char *)t->data + w.first * st_dtype_bytes(t->dtype);
    return (uintptr_t)data % fmt_bytes(fmt) == 0 ? data : NULL;
}
