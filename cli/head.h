/* head.h - the coordinator that `cadre serve` starts, and the pipe by which it tells where it listens. Nothing of that is left
 * in any folder, whoever dies when. Owner: the supervisor's only thread. */
#pragma once
#include "cli/child.h"
#include "cli/serve_options.h"

struct head_options {
    const struct serve_options *o;
    const char *model, *listen, *control; /* where clients and workers shall come */
    bool rank, recover;          /* rank: signals of a launcher are not for it; recover: of a worker's death it shall */
};
struct head {
    struct child *child; /* borrowed */
    int fd;              /* the pipe; -1: it has told all, or will never */
    char told[600];      /* what came so far */
    char listen[256], control[256];
};
int head_open(struct head *h, struct child *child, const struct head_options *o, struct why *why);
/* True when it has told both endpoints. One that ends before that is seen by its end. */
bool head_told(struct head *h);
void head_close(struct head *h);
