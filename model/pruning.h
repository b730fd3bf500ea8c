/* pruning.h - a model without some of its experts, or without some of each expert's neurons: whether it can be, how many stay,
 * and what is left. Which those are is for whoever knows what they give (worker/calibrate.h). Pure; any thread. */
#pragma once
#include "base/status.h"
#include "model/config.h"

enum prune { PRUNE_EXPERTS, PRUNE_NEURONS };

struct pruning {
    const int16_t *kept; /* [MoE layers, experts] their numbers in the checkpoint, ascending; NULL: all stay */
    int experts;         /* of a layer, less than the checkpoint has */
    int neurons;         /* of an expert, less than the checkpoint has */
    const int32_t *kept_neurons; /* [MoE layers, the checkpoint's experts, neurons] ascending; NULL: all stay */
};

/* How many stay of each layer's experts, or of each expert's neurons, without `part` of them: neurons in whole groups where
 * the format that is left has groups. ERR_UNSUPPORTED: none can be left out of such a model; ERR_INVALID: all would stay, or
 * too few. */
int pruning_stay(const struct model_config *c, enum fmt weights, enum prune what, double part, struct why *why);
/* The description of what is left. Errors as above. */
int pruning_apply(const struct model_config *c, enum fmt weights, const struct pruning *p, struct model_config *left,
                  struct why *why);
