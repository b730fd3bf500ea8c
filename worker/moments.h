/* moments.h - from the second moments of a matrix's inputs to what their quantisation wants of them. Pure; any thread. */
#pragma once
#include <stdbool.h>

/* h [n, n], symmetric: sum of x x^T over inputs x; in its place U, upper triangular (zero below), with U^T U the inverse of
 * h + damping * mean(diagonal) * I: what an unseen input may be like. false: there is none to machine precision, h is spoilt.
 * About 2 n^3 / 3 operations. */
bool moments_factor(float *h, int n, float damping);
