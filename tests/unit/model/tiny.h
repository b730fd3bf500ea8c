/* tiny.h - model directories made on the spot: scratch folders, a safetensors writer, checkpoints filled with known numbers. */
#pragma once
#include "model/checkpoint.h"

struct scratch {
    char dir[64];
};
void scratch_open(struct scratch *s);   /* a fresh folder below the system's one for temporary files */
void scratch_remove(struct scratch *s); /* with everything in it */
void scratch_write(const struct scratch *s, const char *name, const void *data, size_t bytes);
void scratch_text(const struct scratch *s, const char *name, const char *text);

/* A safetensors file being put together; tensors go in the order of adding. */
struct st_writer {
    char *header;
    size_t header_len, header_cap;
    uint8_t *data;
    size_t data_len, data_cap;
};
void st_writer_add(struct st_writer *w, const char *name, const char *dtype, const char *shape, const void *data, size_t bytes);
void *st_writer_file(struct st_writer *w, size_t *bytes); /* malloc'ed; clears the writer */

/* How a tiny checkpoint differs from what its config asks for. Zero: not at all. */
struct tiny_edit {
    const char *drop;              /* tensor left out */
    const char *odd, *odd_shape, *odd_dtype; /* tensor written with another shape (text "[2, 3]") and/or dtype */
    const char *extra;             /* name of one more tensor */
    const char *dtype;             /* of all tensors: "F32" (default), "F16", "BF16" */
    int shards;                    /* 0: model.safetensors; else that many files with an index */
    const char *promise, *promise_shard; /* entry of the index that names another file */
    int skew;                      /* bytes of an I8 tensor put first, to misalign the others */
};
/* config.json and tensors. Element i of a tensor is tiny_value(name, i), exact in every format. */
void  tiny_write(const struct scratch *s, const char *config, const struct tiny_edit *edit);
float tiny_value(const char *name, size_t i);
