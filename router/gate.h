/* gate.h - how a gate rule is said to a person. Pure: no I/O, no clock, no log.
 *
 * struct gate_rule describes how gate logits become (expert, weight) pairs (kernels/kernels.h); a family fills it from
 * config.json, which is where it is checked. Here it is put into words for banners and `inspect`. */
#pragma once
#include "kernels/kernels.h"

/* "softmax top-8 of 64, normalised". buf is always terminated; text that does not fit is cut.
 * r must be one that config.json can say. */
void gate_rule_text(const struct gate_rule *r, char *buf, size_t cap);
