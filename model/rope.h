/* rope.h - rotary position embedding (arXiv 2104.09864): which angle turns which pair at which position.
 *
 * Pair j of a head turns by position * frequency[j]; a scaled kind stretches the slow pairs so that a model trained on
 * `original` positions can be used on more. Plain data, filled from config.json by model_config_read(); any thread. */
#pragma once
#include <stdbool.h>

enum { ROPE_MAX_DIMS = 1024 };

enum rope_kind {
    ROPE_PLAIN,  /* frequency j = theta^(-2j / dims) */
    ROPE_LINEAR, /* all divided by factor */
    ROPE_LLAMA3, /* divided where the wavelength is longer than original / low_freq, kept below original / high_freq */
    /* arXiv 2309.00071: kept above beta_fast turns in `original` positions, divided below beta_slow, a ramp between */
    ROPE_YARN
};

struct rope {
    enum rope_kind kind;
    double theta;
    int dims;                    /* rotated elements per head, even, <= D; a head's other elements are left alone */
    bool interleaved;            /* pair j is elements 2j, 2j+1 (DeepSeek); else j, j + dims/2 */
    double factor;               /* of the scaled kinds, >= 1 */
    int original;                /* positions of the training; llama3 and yarn */
    double low_freq, high_freq;  /* llama3 */
    double beta_fast, beta_slow; /* yarn */
    bool truncate;               /* yarn: the ramp starts and ends at whole pairs (all but GPT-OSS) */
    double mscale_all_dim;       /* yarn: for rope_mscale(); 0 = none */
    double amplitude;            /* cosines and sines are multiplied by it; 1 but for yarn */
};

/* YaRN's temperature: 0.1 * mscale * ln(factor) + 1; 1 where factor <= 1. */
double rope_mscale(double factor, double mscale);
/* out [dims/2]: radians per position, in f32 and in the reference implementations' order of operations, for at position 10^5
 * the rounding of a frequency is visible in the angle. */
void rope_frequencies(const struct rope *r, float *out);
/* out [positions, dims/2, 2]: amplitude times cos, sin. */
void rope_table(const struct rope *r, int positions, float *out);
