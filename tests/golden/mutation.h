/* mutation.h - a mistake that a golden test must notice: planted in the config, the weights or the kernels' table. */
#pragma once
#include "tests/golden/runner.h"

struct mutation {
    const char *name, *meaning;
    bool (*applies)(const struct model_config *c);
    struct runner_options plant;
};

extern const struct mutation router_mutations[]; /* of routers beyond a plain flat gate; ends with name NULL */
