/* safetensors.h - a checkpoint's tensors on disk: one file, or shards with model.safetensors.index.json; mmapped, read-only.
 *
 * The header is trusted for nothing: every offset, shape and dtype is checked against the file before a pointer is handed out.
 * Errors name file, tensor, found and wanted. Lookups are by name through a hash table. Any thread after open. */
#pragma once
#include <stdint.h>

#include "base/status.h"

enum st_dtype { ST_F32, ST_F16, ST_BF16, ST_F64, ST_I64, ST_I32, ST_I16, ST_I8, ST_U8, ST_BOOL, ST_F8_E4M3, ST_F8_E5M2 };
const char *st_dtype_name(enum st_dtype t);
int st_dtype_bytes(enum st_dtype t);

enum { ST_MAX_DIMS = 8 };
struct st_tensor {
    const char *name;            /* owned by the set */
    enum st_dtype dtype;
    int dims;
    int64_t shape[ST_MAX_DIMS];
    const void *data;            /* in the mapping; possibly unaligned */
    size_t bytes;
};

struct st_set;
int  st_open(const char *dir, struct st_set **out, struct why *why); /* finds the index or the single file */
int  st_open_memory(const void *file, size_t bytes, struct st_set **out, struct why *why); /* one file's bytes, borrowed: fuzzing */
void st_close(struct st_set *s);
const struct st_tensor *st_find(const struct st_set *s, const char *name); /* NULL: not there */
int  st_count(const struct st_set *s);
const struct st_tensor *st_at(const struct st_set *s, int i);
uint64_t st_total_bytes(const struct st_set *s);
