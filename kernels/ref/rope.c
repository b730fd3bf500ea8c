/* rope.c - rotary position embedding (arXiv 2104.09864) in the half-split form: pair i is elements i and i + rot/2. */
#include "kernels/ref/ref.h"

void ref_rope(struct backend *b, float *x, const int32_t *pos, const float *table, int rot, int T, int heads, int D) {
    (void)b;
    int half = rot / 2;
    for (int t = 0; t < T; t++) {
        const float *cs = table + (int64_t)pos[t] * half * 2; /* [rot/2, 2] */
        for (int h = 0; h < heads; h++, x += D) {
            for (int i = 0; i < half; i++) {
                double c = cs[2 * i], s = cs[2 * i + 1], lo = x[i], hi = x[i + half];
                x[i] = (float)(lo * c - hi * s);
                x[i + half] = (float)(hi * c + lo * s);
            }
        }
    }
}
