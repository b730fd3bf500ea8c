/* st_header.h - one safetensors file's header, checked. Internal to model/.
 *
 *   8 bytes   little-endian length N of the header
 *   N bytes   JSON: {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {...}}
 *   the rest  tensor data; offsets count from its beginning */
#pragma once
#include "base/arena.h"
#include "model/safetensors.h"

/* Checks everything and hands out the tensors, in arena memory, in the order of their data. `file` names it in errors and in
 * st_tensor.file; it is borrowed as long as the arena lives. */
int st_header_parse(const char *file, const void *data, size_t bytes, struct arena *arena, struct st_tensor **out, int *n,
                    struct why *why);
