/* figures.h - what the field quotes about expert load, from counts of rows. Pure.
 *
 * Of one layer, with l_e the rows of expert e, mean = sum / E:
 *   imb = max/mean, balancedness = mean/max   1 when the load is even
 *   std, CV                                   standard deviation of the l_e (of the whole population), std/mean
 *   utilisation                               share of the experts that ran a row at all
 *   hottest                                   share of the rows that the hottest 15 % of the experts took (at least one expert)
 *   activation                                experts a token activated on average, as a share of E
 *   entropy, confidence                       means over tokens, of traces only
 * Over several layers each figure is the mean over those that ran rows; worst_imb is the largest. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct figures {
    uint64_t rows, tokens; /* sum of l_e; tokens that went through the layer */
    double imb, balancedness, std, cv, utilisation, hottest, activation, entropy, confidence;
    double worst_imb;
    int worst_layer; /* index, -1: nothing ran */
    int layers;      /* that ran rows */
};
/* One layer. tokens 0: unknown, activation is 0 then. rows all 0: all figures 0. scratch [E]. */
void figures_layer(struct figures *f, const uint64_t *rows, size_t experts, uint64_t tokens, uint64_t *scratch);
/* Adds a layer's figures to a sum over layers, which began as zeros; figures_mean turns that into means. */
void figures_add(struct figures *sum, const struct figures *layer, int index);
void figures_mean(struct figures *sum);
size_t figures_hot(size_t experts); /* how many the hottest 15 % are: rounded, at least 1 */
