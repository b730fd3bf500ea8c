/* clk.c - the only place that asks the system for the time. */
#include "base/clk.h"

#include <time.h>

static int64_t read_us(clockid_t clock) {
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clk_now_us(void) { return read_us(CLOCK_MONOTONIC); }
int64_t clk_unix_us(void) { return read_us(CLOCK_REALTIME); }
