/* calibrate.h - what a text sends through a model's matrices, so that they are quantised for that rather than for all inputs
 * alike (quant_pack_toward).
 *
 * The model reads the text once, as bf16; kept are, for every layer, the rows that entered attention, its output's matrix and
 * the FFN (as bf16: 2 bytes times three to four times the hidden size for a token), and which experts they went to; and the
 * rows that logits were made of. What an expert's last matrix was given is computed again when it is asked for. One thread
 * owns it. */
#pragma once
#include <stdint.h>

#include "model/checkpoint.h"

struct calibrate_options {
    int threads, window; /* window: as of eval_options; no more than the model's context are taken */
};
struct calibration;
/* ids [n]: the text; `begin` before each window's, -1: nothing. progress may be NULL. ERR_INVALID: dir is a pack, whose weights
 * are rounded already, or the text has tokens that the model has not. */
int calibration_new(const char *dir, const struct calibrate_options *o, const int32_t *ids, int n, int32_t begin,
                    void (*progress)(void *ctx, int done, int all), void *ctx, struct calibration **out, struct why *why);
void calibration_free(struct calibration *c); /* NULL: nothing */
/* For checkpoint_compose; valid as long as the calibration. */
const struct rounding *calibration_rounding(const struct calibration *c);
/* Leaves so many of each layer's experts, as pruning_stay has it: those that gave most, which is the lengths of what an expert
 * gave back, times the weights its tokens had for it, summed over the text. Valid as long as the calibration. */
int calibration_prune(struct calibration *c, int stay, const struct pruning **out, struct why *why);
/* The same of each expert's neurons. Those stay that give most: the mean of |act(gate x) * up x| over its tokens, times the
 * length of down's column; of an expert that fewer than 64 came to, over all tokens. From then on the rounding is that of the
 * model that is left. */
int calibration_prune_neurons(struct calibration *c, int stay, const struct pruning **out, struct why *why);
