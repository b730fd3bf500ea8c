/* embed.c - rows picked from a table: token embeddings, and activations by row number. */
#include <string.h>

#include "kernels/ref/ref.h"

void ref_embed(struct backend *b, float *out, struct mat table, const int32_t *ids, int T) {
    (void)b;
    int H = table.cols;
    for (int t = 0; t < T; t++) {
        for (int i = 0; i < H; i++) out[(int64_t)t * H + i] = ref_weight(table, ids[t], i);
    }
}

void ref_gather(struct backend *b, float *out, const float *x, const int32_t *rows, int n, int H) {
    (void)b;
    for (int i = 0; i < n; i++) memcpy(out + (int64_t)i * H, x + (int64_t)rows[i] * H, (size_t)H * sizeof *x);
}
