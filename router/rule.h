/* rule.h - a router in words. Pure. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/router_rule.h"

/* "tree 16 x 8 x 8, beam 4, 2 leaves; moving average of its choices". buf is always terminated; text that does not fit is
 * cut. */
void router_rule_text(const struct router_rule *r, const struct gate_rule *gate, char *buf, size_t cap);
