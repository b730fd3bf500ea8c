/* blob.c - parts one after another: whichever of the tensors this model has. */
#include "model/blob.h"

#include "base/log.h"

_Static_assert(sizeof(struct blob_part) == 32 && sizeof(struct blob_header) == 320, "blob header is a file format");
_Static_assert(FMT_F32 == 0 && FMT_BF16 == 1 && FMT_FP8 == 2 && FMT_MXFP4 == 3 && FMT_Q8 == 4 && FMT_Q4 == 5,
               "the numbers of a blob's formats are in files");

static size_t round64(size_t n) { return (n + 63) / 64 * 64; }

static const struct {
    enum blob_tensor tensor;
    enum tensor_role role[3]; /* by enum blob_kind; 0: that kind has none */
    bool vector;              /* always f32 */
} tensors[] = {{BLOB_GATE, {0, T_EXPERT_GATE, T_COMMON_GATE}, false},
               {BLOB_UP, {0, T_EXPERT_UP, T_COMMON_UP}, false},
               {BLOB_DOWN, {0, T_EXPERT_DOWN, T_COMMON_DOWN}, false},
               {BLOB_GATE_BIAS, {0, T_EXPERT_GATE_BIAS, 0}, true},
               {BLOB_UP_BIAS, {0, T_EXPERT_UP_BIAS, 0}, true},
               {BLOB_DOWN_BIAS, {0, T_EXPERT_DOWN_BIAS, 0}, true},
               {BLOB_CONF, {0, T_EXPERT_CONF, 0}, true}};
enum { TENSORS = sizeof tensors / sizeof *tensors };
_Static_assert((int)TENSORS <= (int)BLOB_PARTS, "every tensor has a place in the header");

static void add_part(struct blob_header *h, const struct model_config *c, const struct tensor_want *w, enum fmt f,
                     uint16_t tensor, size_t *at) {
    int block = f == FMT_FP8 ? c->quant_block : 0;
    size_t bytes = mat_held_bytes(f, w->rows, w->cols ? w->cols : 1, block);
    h->part[h->n_parts++] = (struct blob_part){.tensor = tensor,
                                               .block = (uint16_t)block,
                                               .format = (uint32_t)f,
                                               .rows = (uint32_t)w->rows,
                                               .cols = (uint32_t)w->cols,
                                               .at = *at,
                                               .bytes = bytes};
    *at += round64(bytes);
    h->payload_bytes = *at - sizeof *h;
}

static struct blob_header begin(const struct model_config *c, enum blob_kind kind, int layer, int expert) {
    return (struct blob_header){.magic = BLOB_MAGIC,
                                .version = BLOB_VERSION,
                                .kind = (uint32_t)kind,
                                .layer = (uint32_t)layer,
                                .expert = (uint32_t)expert,
                                .layout = BLOB_LAYOUT,
                                .hidden = (uint32_t)c->hidden,
                                .content_version = 1};
}

size_t blob_describe_tensor(struct blob_header *h, const struct model_config *c, enum fmt fmt, enum tensor_role role,
                            int layer) {
    struct tensor_want want;
    size_t at = sizeof *h;
    *h = begin(c, BLOB_TENSOR, layer, (int)role);
    if (!model_tensor(c, role, layer, 0, &want)) return 0;
    add_part(h, c, &want, fmt, 0, &at);
    return at;
}

size_t blob_describe(struct blob_header *h, const struct model_config *c, enum fmt fmt, enum blob_kind kind, int layer,
                     int expert) {
    *h = begin(c, kind, layer, expert);
    size_t at = sizeof *h;
    for (int i = 0; i < TENSORS; i++) {
        struct tensor_want want;
        enum tensor_role role = tensors[i].role[kind];
        if (!role || !model_tensor(c, role, layer, expert, &want)) continue;
        enum fmt f = tensors[i].vector ? FMT_F32 : model_format(c, role, fmt);
        add_part(h, c, &want, f, (uint16_t)tensors[i].tensor, &at);
    }
    return h->n_parts ? at : 0;
}

size_t blob_bytes(const struct model_config *c, enum fmt fmt, enum blob_kind kind, int layer, int expert) {
    struct blob_header h;
    return blob_describe(&h, c, fmt, kind, layer, expert);
}

const struct blob_part *blob_find(const struct blob_header *h, enum blob_tensor tensor) {
    for (uint32_t i = 0; i < h->n_parts; i++)
        if (h->part[i].tensor == (uint16_t)tensor) return &h->part[i];
    return NULL;
}

enum tensor_role blob_role(enum blob_kind kind, enum blob_tensor tensor) {
    for (int i = 0; i < TENSORS; i++)
        if (tensors[i].tensor == tensor) return tensors[i].role[kind];
    BUG("blob: no tensor %d", (int)tensor);
}
