/* checkpoint.h - a model directory, opened and checked: config.json + tensors, shapes verified once and strictly.
 *
 * checkpoint_open verifies that every tensor the config asks for exists with the wanted shape and a dtype that can be read,
 * naming tensor, wanted and found; nothing downstream checks again. Extra tensors are reported by a single log line. Reading
 * converts: F32, F16, BF16, and fp8 and mxfp4 with their scales, to f32 or bf16, round to nearest even, or from there to q8 and
 * q4; or keeps fp8 and mxfp4 as they are. Any thread after open. */
#pragma once
#include "model/blob.h"
#include "model/config.h"
#include "model/pruning.h"
#include "model/safetensors.h"

struct pack;
struct checkpoint {
    struct model_config config;
    struct st_set *tensors; /* NULL, which is the empty set, of a pack */
    struct pack *pack;      /* NULL: tensors as others wrote them */
    bool headers_only;          /* of a copy made to ask for sizes: checkpoint_read reads nothing, loaders convert nothing */
    /* XXH3 of both config files, all tensors' names, dtypes and shapes, and file sizes: two workers must agree */
    uint64_t fingerprint;
};
int  checkpoint_open(const char *dir, struct checkpoint *out, struct why *why);
void checkpoint_close(struct checkpoint *c);
/* The format of weights that is meant: "auto" is the pack's own, or else bf16. ERR_INVALID: no format, or a pack of another. */
int checkpoint_weights(const struct checkpoint *c, const char *said, enum fmt *out, struct why *why);

/* The format in which to hold a tensor where `wish` is asked for: model_format's, or for FMT_STORED the one it has on disk, or
 * where that cannot be computed from (F16, kv_b in fp8) f32, which holds the same numbers. */
enum fmt checkpoint_format(const struct checkpoint *c, enum tensor_role role, int layer, int expert, enum fmt wish);
/* The same for a matrix outside of experts as it is held, which for some is f32 whatever is asked for (model_keeps_f32). */
enum fmt checkpoint_held(const struct checkpoint *c, enum tensor_role role, int layer, enum fmt wish);
/* Copies a tensor to dst, rows contiguous: to a plain or quantised format converted; as fp8 or mxfp4 only if
 * checkpoint_format says that it is one, with its scales. Of what is not plain dst has mat_held_bytes and is aligned to 4. The
 * tensor is known to exist (BUG otherwise). */
void checkpoint_read(const struct checkpoint *c, enum tensor_role role, int layer, int expert, enum fmt fmt, void *dst);
/* The tensor's own bytes if they already are `fmt` and 2- or 4-byte aligned for it, else NULL: then checkpoint_read. Valid
 * until close. */
const void *checkpoint_map(const struct checkpoint *c, enum tensor_role role, int layer, int expert, enum fmt fmt);
/* What is known of the inputs of a model's matrices when it is quantised (worker/calibrate.h). */
struct rounding {
    /* As quant_pack_toward wants it, valid until the next call; NULL: round each weight for itself. */
    const float *(*factor)(void *ctx, enum tensor_role role, int layer, int expert);
    void *ctx;
    uint64_t identity; /* not 0; another one, other weights */
};
/* A whole blob into out, from h as blob.h describes it: every part, the sum, the header. Not of a pack. r and p may be NULL;
 * with p the experts in h count from 0 among those that stay, and routers have their rows alone. */
void checkpoint_compose(const struct checkpoint *c, struct blob_header *h, void *out, const struct rounding *r,
                        const struct pruning *p);
/* A whole blob as a pack has it, mapped and page-aligned; NULL: this is no pack, or it has none such. Its sum has not been
 * checked (pack_check). */
const struct blob_header *checkpoint_blob(const struct checkpoint *c, enum blob_kind kind, int layer, int expert);

/* Sizes, from the config alone. */
struct model_sizes {
    uint64_t params_total, params_active;   /* per token */
    uint64_t expert_params;                 /* of one expert, what it shares not counted */
    uint64_t common_params;                 /* rows that experts share, of all layers: held by a worker where it has a member */
    uint64_t resident_params;               /* everything but routed experts: what every worker holds */
    uint64_t kv_elements_per_token;         /* 2 * L * G * D */
};
void model_sizes(const struct model_config *c, struct model_sizes *out);
