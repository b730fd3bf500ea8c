/* fuzz_pack.c - a pack's bytes, and in it the headers of blobs.
 *
 * An input is four bytes (model, format, what is mended after the damage, 0) and then damage to a pack that is whole: records
 * of 16 bytes say where (enum place), which blob, at which byte of it, how many bytes of the value. What opens all the same
 * is, header by header, what the model asks for, and lies inside the file; what passes its checks has not been touched. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "model/pack.h"
#include "tests/fuzz/fuzz.h"

enum { MODELS = 3, FORMATS = 5, HEAD = 4, RECORD = 16, SPARE = 3 * PACK_PAGE };
enum { MEND_FILE = 1, MEND_LENGTH = 2, MEND_BLOBS = 4 };
enum place { OF_FILE, OF_BLOB, OF_PAYLOAD, LENGTH, SWAP, PLACES };

#define SIZES \
    "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"vocab_size\":40,\"rms_norm_eps\":1e-5," \
    "\"max_position_embeddings\":64,\"hidden_act\":\"silu\",\"num_experts_per_tok\":2,"

static const char *const models[MODELS] = {
    "{\"model_type\":\"mixtral\"," SIZES "\"hidden_size\":32,\"intermediate_size\":24,\"num_local_experts\":3}",
    "{\"model_type\":\"cadre_moe\"," SIZES "\"hidden_size\":24,\"head_dim\":12,\"moe_intermediate_size\":20,"
    "\"num_experts\":4,\"shared_expert_intermediate_size\":12,\"tie_word_embeddings\":true,"
    "\"moe_router\":{\"kind\":\"flat\",\"score\":\"sigmoid\",\"k\":2,\"norm\":\"sum\",\"scale\":1.3,\"weight\":\"score\","
    "\"bias\":false,\"sel_bias\":false,\"shared_rows\":0.5}}",
    "{\"model_type\":\"gpt_oss\"," SIZES "\"hidden_size\":64,\"head_dim\":16,\"intermediate_size\":64,\"num_local_experts\":3,"
    "\"attention_bias\":true,\"sliding_window\":21,\"quantization_config\":{\"quant_method\":\"mxfp4\"},"
    "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8.0,\"beta_fast\":4.0,\"beta_slow\":1.0,\"truncate\":false,"
    "\"original_max_position_embeddings\":8}}"};
static const enum fmt formats[FORMATS] = {FMT_F32, FMT_BF16, FMT_Q8, FMT_Q4, FMT_STORED};

struct whole { /* a pack as it should be: made once, never changed */
    struct model_config config;
    uint8_t *data;
    size_t bytes;
    uint32_t *at; /* [blobs] where each begins */
    uint64_t blobs;
};

/* ---- making one ---- */

struct making {
    struct whole *w;
    enum fmt weights;
    size_t at;
};

static size_t describe(const struct model_config *c, enum fmt weights, const struct pack_entry *e, struct blob_header *h) {
    enum tensor_role role = (enum tensor_role)e->expert;
    struct tensor_want want;
    if (e->kind != BLOB_TENSOR) return blob_describe(h, c, weights, e->kind, e->layer, e->expert);
    FUZZ_CHECK(model_tensor(c, role, e->layer, 0, &want));
    enum fmt fmt = weights == FMT_STORED ? c->stored : model_format(c, role, weights);
    return blob_describe_tensor(h, c, !want.cols || model_keeps_f32(role) ? FMT_F32 : fmt, role, e->layer);
}

static int make_blob(void *ctx, const struct pack_entry *e) {
    struct making *m = ctx;
    struct whole *w = m->w;
    struct blob_header h;
    size_t bytes = describe(&w->config, m->weights, e, &h), next = (m->at + bytes + PACK_PAGE - 1) / PACK_PAGE * PACK_PAGE;
    FUZZ_CHECK(bytes == sizeof h + h.payload_bytes);
    w->data = realloc(w->data, next);
    w->at = realloc(w->at, (w->blobs + 1) * sizeof *w->at);
    FUZZ_CHECK(w->data && w->at);
    memset(w->data + m->at, 0, next - m->at);
    uint8_t *payload = w->data + m->at + sizeof h;
    for (size_t i = 0; i < h.payload_bytes; i++) payload[i] = (uint8_t)(i * 5 + w->blobs);
    h.checksum = XXH3_64bits(payload, h.payload_bytes);
    memcpy(w->data + m->at, &h, sizeof h);
    w->at[w->blobs++] = (uint32_t)m->at;
    m->at = next;
    return 0;
}

static void mend_file(uint8_t *data) {
    struct pack_header h;
    memcpy(&h, data, sizeof h);
    h.checksum = XXH3_64bits(&h, offsetof(struct pack_header, checksum));
    memcpy(data, &h, sizeof h);
}

static const struct whole *whole_of(int model, int format) {
    static struct whole all[MODELS][FORMATS];
    struct whole *w = &all[model][format];
    struct why why;
    if (w->data) return w;
    FUZZ_CHECK(model_config_parse(models[model], strlen(models[model]), NULL, 0, &w->config, &why) >= 0);
    w->config.stored = FMT_BF16;
    struct making m = {w, formats[format], PACK_PAGE};
    w->data = calloc(1, PACK_PAGE);
    FUZZ_CHECK(w->data && pack_walk(&w->config, make_blob, &m) >= 0);
    w->bytes = m.at;
    struct pack_header h = {.version = PACK_VERSION,
                            .weights = pack_number(formats[format]),
                            .stored = FMT_BF16,
                            .roles = T_ROLE_COUNT,
                            .source = 77,
                            .bytes = w->bytes,
                            .blobs = w->blobs};
    memcpy(h.magic, "CADREPAK", sizeof h.magic);
    memcpy(w->data, &h, sizeof h);
    mend_file(w->data);
    return w;
}

/* ---- damaging it ---- */

static uint64_t number(const uint8_t *from, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)from[i] << 8 * i;
    return v;
}

static void put(uint8_t *data, size_t bytes, size_t at, const uint8_t *value, size_t n) {
    for (size_t i = 0; i < n && at + i < bytes; i++) data[at + i] = value[i];
}

/* A record: place, width, blob (2), byte (4), value (8). Returns the length of the file, which is at most bytes + SPARE. */
static size_t damage(const struct whole *w, uint8_t *data, size_t size, const uint8_t *record) {
    const size_t most = w->bytes + SPARE, n = 1 + record[1] % 8, blob = w->at[number(record + 2, 2) % w->blobs];
    const size_t at = number(record + 4, 4);
    struct blob_header h;
    memcpy(&h, w->data + blob, sizeof h);
    switch (record[0] % PLACES) {
    case OF_FILE: put(data, most, at % sizeof(struct pack_header), record + 8, n); break;
    case OF_BLOB: put(data, most, blob + at % sizeof h, record + 8, n); break;
    case OF_PAYLOAD: put(data, most, blob + sizeof h + at % h.payload_bytes, record + 8, n); break;
    case LENGTH: return number(record + 8, 8) % (most + 1);
    case SWAP: memcpy(data + blob, w->data + w->at[at % w->blobs], sizeof h); break; /* where another one belongs */
    }
    return size;
}

static void mend(const struct whole *w, uint8_t *data, size_t size, int what) {
    uint64_t bytes = size;
    for (uint64_t i = 0; (what & MEND_BLOBS) && i < w->blobs; i++) {
        const struct blob_header *h = (const struct blob_header *)(w->data + w->at[i]);
        uint64_t sum = XXH3_64bits(data + w->at[i] + sizeof *h, h->payload_bytes);
        memcpy(data + w->at[i] + offsetof(struct blob_header, checksum), &sum, sizeof sum);
    }
    if (what & MEND_LENGTH) memcpy(data + offsetof(struct pack_header, bytes), &bytes, sizeof bytes);
    if (what & MEND_FILE) mend_file(data);
}

/* ---- what must hold ---- */

struct seen {
    const struct pack *p;
    const struct whole *w;
    const uint8_t *data;
    size_t size;
    uint64_t n;
};

static int check_blob(void *ctx, const struct pack_entry *e) {
    struct seen *s = ctx;
    const struct blob_header *h = pack_blob(s->p, e->kind, e->layer, e->expert);
    FUZZ_CHECK(h && (const uint8_t *)h == s->data + s->w->at[s->n]);
    FUZZ_CHECK(s->w->at[s->n] + sizeof *h + h->payload_bytes <= s->size && h->n_parts >= 1 && h->n_parts <= BLOB_PARTS);
    for (uint32_t i = 0; i < h->n_parts; i++)
        FUZZ_CHECK(h->part[i].at >= sizeof *h && h->part[i].at + h->part[i].bytes <= sizeof *h + h->payload_bytes);
    s->n++;
    return 0;
}

static void add(void *ctx, const void *bytes, size_t n) {
    uint64_t *sum = ctx;
    *sum ^= XXH3_64bits(bytes, n);
}

/* Formats of f32 and bf16 tensors are taken from the file where "stored" allows both, and so may lay it out anew. */
static void check_opened(const struct whole *w, const struct pack *p, const uint8_t *data, size_t size, int mended) {
    uint64_t sum = 0;
    struct why why = {""};
    pack_identify(p, add, &sum);
    if (pack_weights(p) != FMT_STORED) {
        struct seen s = {p, w, data, size, 0};
        FUZZ_CHECK(pack_walk(&w->config, check_blob, &s) >= 0 && s.n == w->blobs && size == w->bytes);
    }
    FUZZ_CHECK(!pack_blob(p, BLOB_EXPERT, w->config.layers, 0) && !pack_blob(p, BLOB_EXPERT, 0, w->config.gate.experts));
    FUZZ_CHECK(!pack_blob(p, BLOB_TENSOR, 0, T_ROLE_COUNT) && !pack_blob(p, BLOB_COMMON, -1, 0));
    int rc = pack_check_all(p, NULL, NULL, &why);
    FUZZ_CHECK(rc >= 0 || (rc == ERR_CORRUPT && strstr(why.text, "does not match its checksum")));
    if (rc >= 0 && !(mended & MEND_BLOBS) && pack_weights(p) != FMT_STORED)
        FUZZ_CHECK(!memcmp(data + PACK_PAGE, w->data + PACK_PAGE, size - PACK_PAGE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < HEAD) return 0;
    const struct whole *w = whole_of(data[0] % MODELS, data[1] % FORMATS);
    struct model_config c = w->config;
    uint8_t *work = calloc(1, w->bytes + SPARE);
    struct pack *p = NULL;
    struct why why = {""};
    void *file = NULL;
    size_t n = w->bytes;
    bool whole = size < HEAD + RECORD;
    FUZZ_CHECK(work);
    memcpy(work, w->data, w->bytes);
    for (size_t at = HEAD; size - at >= RECORD; at += RECORD) n = damage(w, work, n, data + at);
    mend(w, work, n, data[2]);
    FUZZ_CHECK(!posix_memalign(&file, PACK_PAGE, n ? n : 1)); /* exactly so long, for the sanitizer */
    memcpy(file, work, n);
    free(work);
    int rc = pack_open_memory(file, n, &c, &p, &why);
    FUZZ_CHECK(rc < 0 ? !p && strlen(why.text) > 10 : p != NULL);
    FUZZ_CHECK(!whole || rc >= 0);
    if (rc >= 0) check_opened(w, p, file, n, data[2]);
    pack_close(p);
    free(file);
    return 0;
}

/* ---- seeds ---- */

static void seed(fuzz_add to, int model, int format, int mended, int place, size_t blob, size_t at, uint64_t value) {
    uint8_t b[HEAD + RECORD] = {(uint8_t)model, (uint8_t)format, (uint8_t)mended, 0, (uint8_t)place, 7};
    for (int i = 0; i < 2; i++) b[HEAD + 2 + i] = (uint8_t)(blob >> 8 * i);
    for (int i = 0; i < 4; i++) b[HEAD + 4 + i] = (uint8_t)(at >> 8 * i);
    for (int i = 0; i < 8; i++) b[HEAD + 8 + i] = (uint8_t)(value >> 8 * i);
    to(b, sizeof b);
}

void fuzz_seeds(fuzz_add to) {
    for (int m = 0; m < MODELS; m++)
        for (int f = 0; f < FORMATS; f++) {
            const struct whole *w = whole_of(m, f);
            to((uint8_t[HEAD]){(uint8_t)m, (uint8_t)f, 0, 0}, HEAD);
            seed(to, m, f, MEND_BLOBS, OF_PAYLOAD, 5, 3, 1);
            seed(to, m, f, 0, OF_PAYLOAD, w->blobs - 1, 9, 1);
            seed(to, m, f, MEND_FILE | MEND_LENGTH, LENGTH, 0, 0, w->bytes - PACK_PAGE);
            seed(to, m, f, MEND_FILE | MEND_LENGTH, LENGTH, 0, 0, w->bytes + PACK_PAGE);
            seed(to, m, f, MEND_FILE, SWAP, w->blobs - 1, w->blobs - 2, 0);
            for (size_t at = 0; at < sizeof(struct pack_header); at += 8)
                seed(to, m, f, MEND_FILE, OF_FILE, 0, at, UINT64_C(1) << (at % 56));
            for (size_t at = 0; at < sizeof(struct blob_header); at += 24)
                seed(to, m, f, at % 16 ? 0 : MEND_BLOBS, OF_BLOB, at % w->blobs, at, at % 48 ? UINT64_MAX / 3 : 1);
        }
}
