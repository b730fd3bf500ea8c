/* clk.h - monotonic time. Pure modules take `now_us` as an argument instead, so that the simulator can lie to them. */
#pragma once
#include <stdint.h>

int64_t clk_now_us(void); /* CLOCK_MONOTONIC, microseconds */
