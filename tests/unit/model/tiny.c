/* tiny.c - writes what the loader reads, by other code: the header is printed, not built from a JSON tree. */
#include "tests/unit/model/tiny.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"

static void need(bool ok, const char *what) {
    if (ok) return;
    perror(what);
    abort();
}

void scratch_open(struct scratch *s) {
    snprintf(s->dir, sizeof s->dir, P_tmpdir "/cadre-test-XXXXXX");
    need(mkdtemp(s->dir), "mkdtemp");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

void scratch_remove(struct scratch *s) { need(nftw(s->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0, s->dir); }

void scratch_write(const struct scratch *s, const char *name, const void *data, size_t bytes) {
    char path[320];
    snprintf(path, sizeof path, "%s/%s", s->dir, name);
    FILE *f = fopen(path, "we");
    need(f && fwrite(data, 1, bytes, f) == bytes && fclose(f) == 0, path);
}

void scratch_text(const struct scratch *s, const char *name, const char *text) { scratch_write(s, name, text, strlen(text)); }

static void *grow(void *p, size_t *cap, size_t want) {
    if (want <= *cap) return p;
    *cap = want * 2;
    p = realloc(p, *cap);
    need(p, "realloc");
    return p;
}

void st_writer_add(struct st_writer *w, const char *name, const char *dtype, const char *shape, const void *data,
                   size_t bytes) {
    char item[512];
    int n = snprintf(item, sizeof item, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                     w->header_len ? "," : "{", name, dtype, shape, w->data_len, w->data_len + bytes);
    w->header = grow(w->header, &w->header_cap, w->header_len + (size_t)n + 1);
    memcpy(w->header + w->header_len, item, (size_t)n + 1);
    w->header_len += (size_t)n;
    w->data = grow(w->data, &w->data_cap, w->data_len + bytes + 1);
    if (bytes) memcpy(w->data + w->data_len, data, bytes);
    w->data_len += bytes;
}

void *st_writer_file(struct st_writer *w, size_t *bytes) {
    const char *head = w->header_len ? w->header : "{";
    size_t n = (strlen(head) + 1 + 7) / 8 * 8; /* padded with spaces, so that the data is aligned */
    uint8_t *file = calloc(1, 8 + n + w->data_len);
    need(file, "calloc");
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memset(file + 8, ' ', n);
    memcpy(file + 8, head, strlen(head));
    file[8 + strlen(head)] = '}';
    if (w->data_len) memcpy(file + 8 + n, w->data, w->data_len);
    *bytes = 8 + n + w->data_len;
    free(w->header);
    free(w->data);
    *w = (struct st_writer){0};
    return file;
}

/* Small multiples of 1/16: exact in f16, bf16 and f32. */
float tiny_value(const char *name, size_t i) {
    return (float)((int)(hash_u64(hash_bytes(name, strlen(name)) + i) % 31) - 15) / 16.0f;
}

static uint16_t half_bits(float f, bool brain) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (brain) return (uint16_t)(u >> 16);
    if (f == 0) return 0;
    return (uint16_t)((u >> 16 & 0x8000) | (((u >> 23 & 0xff) - 112) << 10) | (u >> 13 & 0x3ff));
}

static size_t fill(uint8_t *out, const char *name, const char *dtype, size_t n) {
    const size_t size = !strcmp(dtype, "F32") || !strcmp(dtype, "I32") ? 4
                        : !strcmp(dtype, "F64")                        ? 8
                        : !strcmp(dtype, "I8")                         ? 1
                                                                       : 2;
    for (size_t i = 0; i < n; i++) {
        float f = tiny_value(name, i);
        uint16_t h = half_bits(f, !strcmp(dtype, "BF16"));
        if (size == 2) memcpy(out + 2 * i, &h, 2);
        if (size == 4) memcpy(out + 4 * i, &f, 4);
    }
    return n * size;
}

struct shelf { /* the tensors of a checkpoint, dealt to its files in turn */
    struct st_writer files[8];
    int n, next;
    char *index;
    size_t index_len, index_cap;
};

static void shelve(struct shelf *s, const struct tiny_edit *edit, const char *name, const char *dtype, int rows, int cols) {
    char shape[48], item[320];
    size_t n = (size_t)rows * (size_t)(cols ? cols : 1);
    snprintf(shape, sizeof shape, cols ? "[%d,%d]" : "[%d]", rows, cols);
    const bool odd = edit->odd && !strcmp(edit->odd, name);
    if (odd && edit->odd_shape) {
        int r = 1, c = 1;
        sscanf(edit->odd_shape, "[%d, %d", &r, &c);
        snprintf(shape, sizeof shape, "%s", edit->odd_shape);
        n = (size_t)r * (size_t)c;
    }
    if (odd && edit->odd_dtype) dtype = edit->odd_dtype;
    uint8_t *data = calloc(n + 1, 8);
    need(data, "calloc");
    const int file = s->next++ % s->n;
    st_writer_add(&s->files[file], name, dtype, shape, data, fill(data, name, dtype, n));
    free(data);
    const bool lie = edit->promise && !strcmp(edit->promise, name);
    char shard[32];
    snprintf(shard, sizeof shard, "part-%d.safetensors", file);
    int len = snprintf(item, sizeof item, "%s\"%s\":\"%s\"", s->index_len ? "," : "", name, lie ? edit->promise_shard : shard);
    s->index = grow(s->index, &s->index_cap, s->index_len + (size_t)len + 1);
    memcpy(s->index + s->index_len, item, (size_t)len + 1);
    s->index_len += (size_t)len;
}

static void shelve_role(struct shelf *s, const struct model_config *c, const struct tiny_edit *edit, enum tensor_role role,
                        int layer) {
    struct tensor_want w;
    for (int e = 0; e < (c->gate.experts ? c->gate.experts : 1); e++) {
        if (!model_tensor(c, role, layer, e, &w)) return;
        if (!edit->drop || strcmp(edit->drop, w.name))
            shelve(s, edit, w.name, edit->dtype ? edit->dtype : "F32", w.rows, w.cols);
        if (role < T_EXPERT_GATE || role > T_EXPERT_DOWN) return;
    }
}

static void write_files(const struct scratch *dir, struct shelf *s, const struct tiny_edit *edit) {
    for (int i = 0; i < s->n; i++) {
        char name[32];
        size_t bytes;
        snprintf(name, sizeof name, "part-%d.safetensors", i);
        void *file = st_writer_file(&s->files[i], &bytes);
        scratch_write(dir, edit->shards ? name : "model.safetensors", file, bytes);
        free(file);
    }
    if (edit->shards) {
        const size_t cap = s->index_len + 64;
        char *text = malloc(cap);
        need(text, "malloc");
        snprintf(text, cap, "{\"metadata\":{\"total_size\":1},\"weight_map\":{%s}}", s->index);
        scratch_text(dir, "model.safetensors.index.json", text);
        free(text);
    }
    free(s->index);
}

void tiny_write(const struct scratch *dir, const char *config, const struct tiny_edit *edit) {
    static const struct tiny_edit none;
    struct model_config c;
    struct why why;
    struct shelf s = {.n = edit && edit->shards ? edit->shards : 1};
    if (!edit) edit = &none;
    int rc = model_config_parse(config, strlen(config), NULL, 0, &c, &why);
    if (rc < 0) fprintf(stderr, "%s\n", why.text);
    need(rc >= 0, "the tiny model's config");
    scratch_text(dir, "config.json", config);
    if (edit->skew) shelve(&s, edit, "mtp.skew", "I8", edit->skew, 0);
    for (int role = 0; role < T_ATTN_NORM; role++) shelve_role(&s, &c, edit, (enum tensor_role)role, 0);
    for (int layer = 0; layer < c.layers; layer++)
        for (int role = T_ATTN_NORM; role < T_ROLE_COUNT; role++) shelve_role(&s, &c, edit, (enum tensor_role)role, layer);
    if (edit->extra) shelve(&s, edit, edit->extra, "I32", 3, 0);
    write_files(dir, &s, edit);
}
