/* split.h - where a worker's time goes: a clock that is always in one part, so that the parts add up to the time that went by.
 *
 * It tells the engine thread's time: with a device that runs behind its caller, work shows up where the thread waits for it.
 * Owner: the engine thread. */
#pragma once
#include <stdint.h>

#include "base/clk.h"
#include "proto/parts.h"

struct split {
    enum part now;
    int64_t since_us;
    uint64_t us[PARTS];
};

/* From here on. What ends here is added up. */
static inline void split_to(struct split *s, enum part part) {
    int64_t now_us = clk_now_us();
    s->us[s->now] += (uint64_t)(now_us - s->since_us);
    s->now = part;
    s->since_us = now_us;
}

/* From here on, as if no time had gone by since the last turn. */
static inline void split_begin(struct split *s, enum part part) {
    s->now = part;
    s->since_us = clk_now_us();
}

/* So much of what is under way was another part. */
static inline void split_move(struct split *s, uint64_t us, enum part part) {
    s->us[part] += us;
    s->since_us += (int64_t)us;
}
