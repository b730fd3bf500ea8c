/* convert.h - formats on disk to formats in memory, in bulk. Internal to model/. */
#pragma once
#include "kernels/kernels.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/safetensors.h"

/* Whether convert() knows the dtype: F32, F16, BF16. */
bool convert_knows(enum st_dtype from);
/* Scales of a tensor in a block format; NULL: there are none. */
const struct st_tensor *checkpoint_scales(const struct st_set *s, const struct tensor_want *w);
/* The memory format that holds the same bits, or -1. */
int convert_same(enum st_dtype from);
/* dst[n] of `to` from src[n] of `from`; src may be unaligned, dst is aligned for its format. Widening is exact, narrowing
 * rounds to nearest even, NaN stays NaN. BUG when !convert_knows(from). */
void convert(void *dst, enum fmt to, const void *src, enum st_dtype from, size_t n);

/* A tensor that is being read. */
struct tensor_source {
    const struct checkpoint *checkpoint;
    struct tensor_want want;
    const struct st_tensor *tensor;
    float *scales; /* of one in fp8, else NULL */
    /* Where neurons are left out, those that stay: rows of the tensor, or `across` it columns. want counts them alone. */
    const int32_t *kept; /* NULL: all */
    int of;              /* as many it has on disk */
    bool across;
};
/* Rows [first, first + rows) to a plain format. Any thread. */
void tensor_read_rows(const struct tensor_source *s, enum fmt fmt, void *dst, int first, int rows);
/* The whole matrix to q8 or q4, into a piece of mat_held_bytes, by all processors that this process may use. u: as for
 * quant_pack_toward, or NULL. */
void tensor_quantise(const struct tensor_source *s, enum fmt fmt, void *piece, const float *u);
