/* clk.c - the only place that asks the system for monotonic time. */
#include "base/clk.h"

#include <time.h>

int64_t clk_now_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}
