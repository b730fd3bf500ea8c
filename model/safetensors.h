/* safetensors.h - a checkpoint's tensors on disk: one file, or shards with model.safetensors.index.json; mmapped, read-only.
 *
 * The header is trusted for nothing: every offset, shape and dtype is checked against the file before a pointer is handed out.
 * The rules are the reference implementation's: tensors lie without overlap or hole and fill the file to its end. A name occurs
 * once in the whole set. Errors name file, tensor, found and wanted. Tensors are sorted by name. Any thread after open.
 * The files must not shrink while the set is open. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum st_dtype {
    ST_F32,
    ST_F16,
    ST_BF16,
    ST_F64,
    ST_I64,
    ST_I32,
    ST_I16,
    ST_I8,
    ST_U64,
    ST_U32,
    ST_U16,
    ST_U8,
    ST_BOOL,
    ST_F8_E4M3,
    ST_F8_E5M2,
    ST_DTYPE_COUNT
};
const char *st_dtype_name(enum st_dtype t);
int st_dtype_bytes(enum st_dtype t);

enum { ST_MAX_DIMS = 8 };
struct st_tensor {
    const char *name;            /* owned by the set, like `file` */
    const char *file;            /* path of the file that holds it; "memory" for st_open_memory */
    enum st_dtype dtype;
    int dims;
    int64_t shape[ST_MAX_DIMS];
    const void *data;            /* in the mapping; possibly unaligned */
    size_t bytes;
};

struct st_set; /* NULL is the empty set */
int  st_open(const char *dir, struct st_set **out, struct why *why); /* finds the single file, else the index */
int st_open_memory(const void *file, size_t bytes, struct st_set **out,
                   struct why *why); /* one file's bytes, borrowed: fuzzing */
void st_close(struct st_set *s);
const struct st_tensor *st_find(const struct st_set *s, const char *name); /* NULL: not there */
/* Gives back the memory of pages that were read; whoever reads them again gets them from the system's cache. Any thread. */
void st_forget(const struct st_set *s);
int  st_count(const struct st_set *s);
const struct st_tensor *st_at(const struct st_set *s, int i);
uint64_t st_total_bytes(const struct st_set *s);          /* of all tensors */
int  st_file_count(const struct st_set *s);
uint64_t st_file_bytes(const struct st_set *s, int i);    /* files in order of their names */
/* "[64, 128]", for messages. Returns buf. */
const char *st_shape_text(const struct st_tensor *t, char *buf, size_t cap);
