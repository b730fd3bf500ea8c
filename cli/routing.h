/* routing.h - a trace read into counts: per domain and layer, who ran how often, how certain the gate was, and how often it
 * chose what a labelled set expects. Pure but for reading the file. */
#pragma once
#include "cli/figures.h"
#include "cli/labels.h"
#include "proto/trace.h"

struct routing_layer {
    uint64_t *rows;              /* [E] */
    uint64_t tokens, zero;       /* tokens seen; choices of experts without weights, which are in no figure of load */
    double entropy, confidence;  /* sums */
    uint64_t judged, right;      /* records with a label; those whose heaviest expert is expected */
    uint64_t pairs, pairs_right; /* choices in labelled records; those that are expected */
    double chance;               /* sum of |expected| / E over judged records */
};
struct routing {
    struct trace_shape shape;
    bool whole;            /* the file has an END */
    uint64_t tokens, lost; /* rows in the file; rows it lacks */
    uint64_t broken;       /* numbers that were not finite: 0 in the file */
    char name[TRACE_DOMAINS][TRACE_NAME_BYTES + 1];
    uint64_t domain_tokens[TRACE_DOMAINS];
    struct routing_layer *layer[TRACE_DOMAINS]; /* [layers]; NULL: no token of that domain */
};
int routing_read(struct routing *r, FILE *f, const char *labels_text, const char *labels_file, struct why *why);
void routing_clear(struct routing *r);
/* Sums over domains; domain < 0: all of them. out: zeroed by the caller, with rows [E] to add to. */
void routing_sum(const struct routing *r, int domain, int layer, struct routing_layer *out);
void routing_figures(const struct routing *r, const struct routing_layer *l, struct figures *f, uint64_t *scratch);
