/* blob.h - the unit in which experts are loaded, verified and moved: contiguous and self-describing.
 *
 *   header | part | part ...     each at a multiple of 64 bytes from the blob's start, the gaps zero
 *
 * An expert's blob holds every tensor of that expert, in the layout the kernels read. What the experts of a level share is a
 * blob of its own, the common blob of (layer, level): it is resident wherever one of them is, and moves before them. In a pack
 * (pack.h) every other tensor is a blob, too.
 * The layout follows from the model's description alone, so a worker knows a blob's size before it has it. Pure; any thread. */
#pragma once
#include "kernels/kernels.h"
#include "model/config.h"

enum {
    BLOB_MAGIC = 0x42584443 /* "CDXB" */,
    BLOB_VERSION = 3,
    BLOB_LAYOUT = 1, /* kernels.h: row-major [out, in]; of q8 and q4 in panels */
    BLOB_PARTS = 8
};
enum blob_kind { BLOB_EXPERT = 1, BLOB_COMMON = 2, BLOB_TENSOR = 3 };
enum blob_tensor { BLOB_GATE = 1, BLOB_UP = 2, BLOB_DOWN = 3, BLOB_CONF = 4,
                   BLOB_GATE_BIAS = 5, BLOB_UP_BIAS = 6, BLOB_DOWN_BIAS = 7 };

struct blob_part {
    uint16_t tensor, block;  /* enum blob_tensor, 0 in a tensor's blob; of fp8 (struct mat) */
    uint32_t format;         /* enum fmt: the numbers are the file format's */
    uint32_t rows, cols;     /* cols 0: a vector */
    uint64_t at, bytes;      /* from the blob's start; of fp8 and mxfp4 with the scales (mat_held) */
};
struct blob_header { /* 320 bytes; little endian */
    uint32_t magic, version;
    uint32_t kind;          /* enum blob_kind */
    uint32_t layer, expert; /* layer in the model; the expert, the level of a common blob, or the role of a tensor */
    uint32_t layout;
    uint32_t hidden, n_parts;
    uint64_t content_version;
    uint64_t payload_bytes; /* what follows the header */
    uint64_t checksum;      /* XXH3-64 of the payload */
    uint64_t reserved;
    struct blob_part part[BLOB_PARTS]; /* those beyond n_parts are zero */
};

/* Fills everything but the checksum. Returns the size of the whole blob, 0 when the model has no such blob. */
size_t blob_describe(struct blob_header *h, const struct model_config *c, enum fmt fmt, enum blob_kind kind, int layer,
                     int expert);
size_t blob_bytes(const struct model_config *c, enum fmt fmt, enum blob_kind kind, int layer, int expert);
/* The same for a tensor that is in no expert's blob, which is held as fmt. */
size_t blob_describe_tensor(struct blob_header *h, const struct model_config *c, enum fmt fmt, enum tensor_role role,
                            int layer);
/* The part that holds a tensor, or NULL. */
const struct blob_part *blob_find(const struct blob_header *h, enum blob_tensor tensor);
/* The role whose tensor a part holds. */
enum tensor_role blob_role(enum blob_kind kind, enum blob_tensor tensor);
