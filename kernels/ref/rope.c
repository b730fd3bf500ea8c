/* rope.c - rotary position embedding (arXiv 2104.09864). Pair i is elements i and i + rot/2 (half split), or 2i and 2i + 1
 * (interleaved). */
#include "kernels/ref/ref.h"

void ref_rope(struct backend *b, float *x, const int32_t *pos, const float *table, int rot, bool interleaved, int T, int heads,
              int D) {
    (void)b;
    int half = rot / 2, step = interleaved ? 2 : 1, across = interleaved ? 1 : half;
    for (int t = 0; t < T; t++) {
        const float *cs = table + (int64_t)pos[t] * half * 2; /* [rot/2, 2] */
        for (int h = 0; h < heads; h++, x += D) {
            for (int i = 0; i < half; i++) {
                float *one = x + i * step, *two = one + across;
                double c = cs[2 * i], s = cs[2 * i + 1], lo = *one, hi = *two;
                *one = (float)(lo * c - hi * s);
                *two = (float)(hi * c + lo * s);
            }
        }
    }
}
