/* banner.h - what `cadre serve` tells the operator: load progress while it starts, six lines when it serves. */
#pragma once
#include "cli/cli.h"

enum { BANNER_WORKERS = 64 };
struct banner {
    bool terminal;                       /* stderr: progress may rewrite its line */
    bool open_line;                      /* a progress line without its newline stands there */
    uint32_t told[BANNER_WORKERS];       /* percent last printed, + 1 */
};
void banner_progress(struct banner *b, const struct cadre_cluster *c);
/* Ends a progress line, before anything else is printed. */
void banner_break(struct banner *b);
void banner_serving(const struct cadre_cluster *c);
