/* rope.c - frequencies of the four kinds, and the table of cosines and sines that the kernels read. */
#include "model/rope.h"

#include <math.h>

static const double PI = 3.14159265358979323846;

double rope_mscale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static float llama3(const struct rope *r, float freq) {
    const double original = r->original, wave = 2 * PI / (double)freq;
    if (wave < original / r->high_freq) return freq;
    if (wave > original / r->low_freq) return (float)((double)freq / r->factor);
    double smooth = (original / wave - r->low_freq) / (r->high_freq - r->low_freq);
    return (float)((1 - smooth) * (double)freq / r->factor + smooth * (double)freq);
}

/* The pair, as an element's index over two, that turns `turns` times in the original positions. */
static double pair_of_turns(const struct rope *r, double turns) {
    return r->dims * log(r->original / (turns * 2 * PI)) / (2 * log(r->theta));
}

/* Where the ramp starts and ends, in pairs; outside of the pairs that exist it still sets the slope. */
static void yarn_ramp(const struct rope *r, double *start, double *end) {
    double first = pair_of_turns(r, r->beta_fast), last = pair_of_turns(r, r->beta_slow);
    if (r->truncate) {
        first = floor(first);
        last = ceil(last);
    }
    *start = fmax(first, 0);
    *end = fmin(last, r->dims - 1);
    if (*start == *end) *end += 0.001; /* as the reference implementations avoid the division by zero */
}

static float yarn(const struct rope *r, float power, double start, double end, int j) {
    float ramp = ((float)j - (float)start) / (float)(end - start);
    float keep = 1 - fminf(fmaxf(ramp, 0), 1);
    return 1.0f / ((float)r->factor * power) * (1 - keep) + 1.0f / power * keep;
}

void rope_frequencies(const struct rope *r, float *out) {
    double start = 0, end = 1;
    if (r->kind == ROPE_YARN) yarn_ramp(r, &start, &end);
    for (int j = 0; j < r->dims / 2; j++) {
        float power = (float)pow(r->theta, (double)(2 * j) / r->dims);
        switch (r->kind) {
        case ROPE_PLAIN: out[j] = 1.0f / power; break;
        case ROPE_LINEAR: out[j] = 1.0f / power / (float)r->factor; break;
        case ROPE_LLAMA3: out[j] = llama3(r, 1.0f / power); break;
        case ROPE_YARN: out[j] = yarn(r, power, start, end, j); break;
        }
    }
}

void rope_table(const struct rope *r, int positions, float *out) {
    const int half = r->dims / 2;
    float freq[ROPE_MAX_DIMS / 2];
    rope_frequencies(r, freq);
    for (int p = 0; p < positions; p++)
        for (int j = 0; j < half; j++, out += 2) {
            float angle = (float)p * freq[j];
            out[0] = (float)cos((double)angle) * (float)r->amplitude;
            out[1] = (float)sin((double)angle) * (float)r->amplitude;
        }
}
