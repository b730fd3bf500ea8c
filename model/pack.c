/* pack.c - see pack.h: the reader. The file is input: nothing in it is followed before it is compared with what config.json
 * says must be there. */
#include "model/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

_Static_assert(sizeof(struct pack_header) == 64, "the header is a file format");

struct pack {
    char path[4096];
    const unsigned char *data;
    size_t bytes;
    bool mapped;
    struct pack_header header;
    enum fmt weights;
    int layers, experts, levels;
    const struct blob_header **tensor, **common, **expert; /* [layers, T_ROLE_COUNT] [layers, levels] [layers, experts] */
    const struct blob_header **all;                        /* [blobs] in the file's order */
    uint64_t n;
};

/* ---- the walk ---- */

static int walk_tensors(const struct model_config *c, int (*fn)(void *, const struct pack_entry *), void *ctx) {
    int rc = 0;
    for (int layer = 0; rc >= 0 && layer < c->layers; layer++)
        for (int role = layer ? T_ATTN_NORM : T_EMBED; rc >= 0 && role < T_ROLE_COUNT; role++) {
            struct tensor_want w;
            if (tensor_in_blob((enum tensor_role)role) || !model_tensor(c, (enum tensor_role)role, layer, 0, &w)) continue;
            rc = fn(ctx, &(struct pack_entry){BLOB_TENSOR, layer, role});
        }
    return rc;
}

int pack_walk(const struct model_config *c, int (*fn)(void *ctx, const struct pack_entry *e), void *ctx) {
    int rc = walk_tensors(c, fn, ctx);
    for (int layer = 0; rc >= 0 && layer < c->layers; layer++) {
        if (c->moe_index[layer] < 0) continue;
        for (int level = 0; rc >= 0 && level < model_levels(c); level++)
            if (blob_bytes(c, FMT_F32, BLOB_COMMON, layer, level))
                rc = fn(ctx, &(struct pack_entry){BLOB_COMMON, layer, level});
        for (int e = 0; rc >= 0 && e < c->gate.experts; e++) rc = fn(ctx, &(struct pack_entry){BLOB_EXPERT, layer, e});
    }
    return rc;
}

static const char *kind_name(enum blob_kind k) {
    return k == BLOB_EXPERT ? "expert" : k == BLOB_COMMON ? "common rows of level" : "tensor of role";
}

/* ---- opening ---- */

struct opening {
    struct pack *p;
    const struct model_config *config;
    size_t at;
    struct why *why;
};

static bool may_be(const struct opening *o, enum tensor_role role, int layer, uint32_t fmt) {
    const struct model_config *c = o->config;
    const enum fmt weights = o->p->weights;
    struct tensor_want w;
    if (!model_tensor(c, role, layer, 0, &w)) return false;
    if (!w.cols || model_keeps_f32(role)) return fmt == FMT_F32;
    if (fmt_quant(weights) && model_is_output(c, role) && fmt == (uint32_t)weights) return true;
    if (weights != FMT_STORED) return fmt == (uint32_t)model_format(c, role, weights);
    const bool blocks = c->quant == FMT_FP8 && model_may_be_fp8(role) && role != T_KV_B;
    return fmt < FMT_COUNT && (fmt_plain((enum fmt)fmt) || (blocks && fmt == FMT_FP8));
}

/* What a tensor is held as follows from the checkpoint it was made of, so that alone is taken from its header. */
static size_t describe(const struct opening *o, const struct pack_entry *e, const struct blob_header *found,
                       struct blob_header *want) {
    if (e->kind != BLOB_TENSOR)
        return blob_describe(want, o->config, o->p->weights, e->kind, e->layer, e->expert);
    const enum tensor_role role = (enum tensor_role)e->expert;
    const uint32_t fmt = found->part[0].format;
    return may_be(o, role, e->layer, fmt) ? blob_describe_tensor(want, o->config, (enum fmt)fmt, role, e->layer) : 0;
}

static const struct blob_header **place_of(const struct pack *p, enum blob_kind kind, int layer, int expert) {
    int n = kind == BLOB_TENSOR ? T_ROLE_COUNT : kind == BLOB_COMMON ? p->levels : p->experts;
    const struct blob_header **of = kind == BLOB_TENSOR ? p->tensor : kind == BLOB_COMMON ? p->common : p->expert;
    if (layer < 0 || layer >= p->layers || expert < 0 || expert >= n) return NULL;
    return of + (size_t)layer * (size_t)n + expert;
}

static int open_blob(void *ctx, const struct pack_entry *e) {
    struct opening *o = ctx;
    struct pack *p = o->p;
    struct blob_header found, want;
    if (p->bytes - o->at < sizeof found)
        return fail(o->why, ERR_CORRUPT, "%s ends at byte %zu, before layer %d, %s %d: it was cut off; make it again", p->path,
                    p->bytes, e->layer, kind_name(e->kind), e->expert);
    memcpy(&found, p->data + o->at, sizeof found);
    size_t bytes = describe(o, e, &found, &want);
    want.checksum = found.checksum;
    if (!bytes || memcmp(&found, &want, sizeof want))
        return fail(
            o->why, ERR_CORRUPT,
            "%s: at byte %zu is not the header of layer %d, %s %d, as config.json and this release have it; make it again",
            p->path, o->at, e->layer, kind_name(e->kind), e->expert);
    bytes = (bytes + PACK_PAGE - 1) / PACK_PAGE * PACK_PAGE;
    if (p->bytes - o->at < bytes)
        return fail(o->why, ERR_CORRUPT, "%s ends at byte %zu, in layer %d, %s %d: it was cut off; make it again", p->path,
                    p->bytes, e->layer, kind_name(e->kind), e->expert);
    const struct blob_header *here = (const struct blob_header *)(p->data + o->at);
    *place_of(p, e->kind, e->layer, e->expert) = here;
    p->all[p->n++] = here;
    o->at += bytes;
    return 0;
}

static int count_blob(void *ctx, const struct pack_entry *e) {
    (void)e;
    ++*(uint64_t *)ctx;
    return 0;
}

static int read_header(struct pack *p, const struct model_config *c, struct why *why) {
    struct pack_header *h = &p->header;
    uint64_t blobs = 0;
    if (p->bytes < PACK_PAGE) return fail(why, ERR_CORRUPT, "%s: %zu bytes long; wanted a page at least", p->path, p->bytes);
    memcpy(h, p->data, sizeof *h);
    if (memcmp(h->magic, "CADREPAK", sizeof h->magic)) return fail(why, ERR_CORRUPT, "%s is no pack", p->path);
    if (h->version != PACK_VERSION || h->roles != T_ROLE_COUNT)
        return fail(why, ERR_UNSUPPORTED, "%s: version %u.%u; this release reads %d.%d: make the pack again", p->path,
                    h->version, h->roles, PACK_VERSION, T_ROLE_COUNT);
    if (h->checksum != XXH3_64bits(h, offsetof(struct pack_header, checksum)))
        return fail(why, ERR_CORRUPT, "%s: the file's header does not match its checksum", p->path);
    p->weights = h->weights == PACK_STORED ? FMT_STORED : (enum fmt)h->weights;
    if (h->weights > PACK_STORED || !fmt_wish(p->weights) || h->stored > PACK_STORED || !fmt_plain((enum fmt)h->stored))
        return fail(why, ERR_CORRUPT, "%s: no such format", p->path);
    pack_walk(c, count_blob, &blobs);
    if (h->blobs != blobs)
        return fail(why, ERR_INVALID, "%s has %llu blobs; config.json asks for %llu: they do not belong together", p->path,
                    (unsigned long long)h->blobs, (unsigned long long)blobs);
    return 0;
}

static int read_all(struct pack *p, struct model_config *c, struct why *why) {
    int rc = read_header(p, c, why);
    if (rc < 0) return rc;
    p->layers = c->layers;
    p->experts = c->gate.experts;
    p->levels = model_levels(c);
    size_t layers = (size_t)p->layers;
    p->tensor = calloc(layers * T_ROLE_COUNT, sizeof *p->tensor);
    p->common = calloc(layers * (size_t)p->levels + 1, sizeof *p->common);
    p->expert = calloc(layers * (size_t)p->experts + 1, sizeof *p->expert);
    p->all = calloc(p->header.blobs + 1, sizeof *p->all);
    if (!p->tensor || !p->common || !p->expert || !p->all) return fail(why, ERR_NOMEM, "out of memory for a pack's list");
    c->stored = (enum fmt)p->header.stored;
    struct opening o = {.p = p, .config = c, .at = PACK_PAGE, .why = why};
    rc = pack_walk(c, open_blob, &o);
    if (rc >= 0 && (p->header.bytes != p->bytes || o.at != p->bytes))
        rc = fail(why, ERR_CORRUPT, "%s: %zu bytes long; its header says %llu, its blobs take %zu", p->path, p->bytes,
                  (unsigned long long)p->header.bytes, o.at);
    return rc;
}

static bool has_file(const char *dir, const char *name) {
    char path[4096];
    struct stat st;
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path && !stat(path, &st) && S_ISREG(st.st_mode);
}

bool pack_exists(const char *dir) { return has_file(dir, PACK_FILE); }

bool pack_unfinished(const char *dir) { return !pack_exists(dir) && has_file(dir, PACK_PART_FILE); }

static int map(struct pack *p, struct why *why) {
    struct stat st;
    int fd = open(p->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return fail(why, ERR_NOT_FOUND, "there is no %s", p->path);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !st.st_size) {
        int rc = fail(why, ERR_IO, "cannot open %s: %s", p->path, fd < 0 ? strerror(errno) : "no regular file, or empty");
        if (fd >= 0) close(fd);
        return rc;
    }
    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (data == MAP_FAILED) return fail(why, ERR_IO, "cannot map %s: %s", p->path, strerror(errno));
    p->data = data;
    p->bytes = (size_t)st.st_size;
    p->mapped = true;
    return 0;
}

static int finish(struct pack *p, int rc, struct model_config *c, struct pack **out, struct why *why) {
    if (rc >= 0) rc = read_all(p, c, why);
    if (rc < 0) pack_close(p);
    else *out = p;
    return rc;
}

int pack_open(const char *dir, struct model_config *c, struct pack **out, struct why *why) {
    struct pack *p = calloc(1, sizeof *p);
    if (!p) return fail(why, ERR_NOMEM, "out of memory");
    if (snprintf(p->path, sizeof p->path, "%s/%s", dir, PACK_FILE) >= (int)sizeof p->path) {
        free(p);
        return fail(why, ERR_TOO_LARGE, "the path of the model is too long");
    }
    return finish(p, map(p, why), c, out, why);
}

int pack_open_memory(const void *bytes, size_t n, struct model_config *c, struct pack **out, struct why *why) {
    struct pack *p = calloc(1, sizeof *p);
    if (!p) return fail(why, ERR_NOMEM, "out of memory");
    snprintf(p->path, sizeof p->path, "memory");
    p->data = bytes;
    p->bytes = n;
    return finish(p, 0, c, out, why);
}

void pack_close(struct pack *p) {
    if (!p) return;
    if (p->mapped) munmap((void *)(uintptr_t)p->data, p->bytes);
    free(p->tensor);
    free(p->common);
    free(p->expert);
    free(p->all);
    free(p);
}

const struct pack_header *pack_header(const struct pack *p) { return &p->header; }

enum fmt pack_weights(const struct pack *p) { return p->weights; }

const struct blob_header *pack_blob(const struct pack *p, enum blob_kind kind, int layer, int expert) {
    const struct blob_header **place = place_of(p, kind, layer, expert);
    return place ? *place : NULL;
}

void pack_identify(const struct pack *p, void (*add)(void *ctx, const void *bytes, size_t n), void *ctx) {
    add(ctx, &p->header, sizeof p->header);
    for (uint64_t i = 0; i < p->n; i++) add(ctx, p->all[i], sizeof *p->all[i]);
}

int pack_check(const struct pack *p, const struct blob_header *blob, struct why *why) {
    if (XXH3_64bits(blob + 1, blob->payload_bytes) == blob->checksum) return 0;
    return fail(why, ERR_CORRUPT, "%s: layer %u, %s %u (byte %zu, %llu long) does not match its checksum; make the pack again",
                p->path, blob->layer, kind_name((enum blob_kind)blob->kind), blob->expert,
                (size_t)((const unsigned char *)blob - p->data), (unsigned long long)(sizeof *blob + blob->payload_bytes));
}

int pack_check_all(const struct pack *p, void (*progress)(void *ctx, uint64_t done, uint64_t all), void *ctx, struct why *why) {
    for (uint64_t i = 0; i < p->n; i++) {
        int rc = pack_check(p, p->all[i], why);
        if (rc < 0) return rc;
        uint64_t next = i + 1 < p->n ? (uint64_t)((const unsigned char *)p->all[i + 1] - p->data) : p->bytes;
        if (progress) progress(ctx, next, p->bytes);
    }
    return 0;
}
