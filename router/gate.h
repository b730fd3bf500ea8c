/* gate.h - what a gate rule may say, and how it is said to a person. Pure: no I/O, no clock, no log.
 *
 * struct gate_rule describes how gate logits become (expert, weight) pairs (kernels/kernels.h); a family fills it from
 * config.json. Here it is checked once, before anything computes with it, and put into words for banners and `inspect`. */
#pragma once
#include "kernels/kernels.h"

/* 0, or ERR_INVALID naming the field, its value and what is accepted. */
int gate_rule_check(const struct gate_rule *r, struct why *why);
/* "softmax top-8 of 64, normalised". buf is always terminated; text that does not fit is cut. r must have passed the check. */
void gate_rule_text(const struct gate_rule *r, char *buf, size_t cap);
