/* labels.h - where tokens of a domain should go: a file of lines "domain layers experts", for routing accuracy.
 *
 *     # domain   layers  experts
 *     code       *       0-3,7
 *     fine art   5-11    2
 *
 * The last two fields are lists of numbers and ranges, or *; what stands before them is the domain, blanks inside it included.
 * Several lines for the same domain and layer add up. Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "proto/trace.h"

enum { LABELS_MAX = 4 * TRACE_DOMAINS };
struct labels {
    int n; /* domains named */
    char name[LABELS_MAX][TRACE_NAME_BYTES + 1];
    bool *expected[LABELS_MAX]; /* [layers][1 + experts]: some line speaks of the layer; the experts it expects */
    int layers, experts;
};
/* ERR_INVALID with file name and line. */
int labels_parse(struct labels *l, const struct trace_shape *s, const char *text, const char *file, struct why *why);
void labels_clear(struct labels *l);
int labels_find(const struct labels *l, const char *domain); /* -1: not in the file */
/* The experts expected in a layer (by its place in the trace), [experts]; NULL: no line speaks of it. */
const bool *labels_of(const struct labels *l, int domain, int layer);
