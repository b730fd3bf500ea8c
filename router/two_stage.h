/* two_stage.h - one token's choice of globals, of domains under them, and of locals attached to those. Pure.
 *
 *   p = softmax(zg); the global_topk globals with the largest p + bias
 *   q = softmax(zd) over the domains of each chosen global; a domain's mass is p_g * q_d; the k domains with the largest mass
 *   omega = mass, or mass divided by the sum over the chosen (mass "norm"): also where every p_g is too small for f32, because
 *           only their ratios count. A domain whose logit is -infinity has mass 0; where all chosen ones have, omega is 0
 *   of each chosen domain's locals the k_local with the largest zl, each with the gate sigmoid(zl)
 *   y = sum p_g F_g(x) + sum omega_d (F_d(x) + sum sigmoid(zl_f) F_f(x))
 *
 * Equal values: the lower id first. Pairs come out in the order in which they are added up: globals by falling p + bias, then
 * domain by domain by falling mass, each followed by its locals. Ids are flat (router_rule.h). */
#pragma once
#include <stdint.h>

#include "kernels/router_rule.h"

/* zg [globals], zd [domains], zl [locals] logits; bias [globals] or NULL; global_topk and k as decided for this token. Writes
 * ids and weights; returns their number, global_topk + k * (1 + k_local). */
int two_stage_pick(const struct two_stage_rule *r, int global_topk, int k, const float *zg, const float *bias, const float *zd,
                   const float *zl, int32_t *ids, float *weights);
