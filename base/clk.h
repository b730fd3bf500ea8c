/* clk.h - what time it is. Pure modules take `now_us` as an argument instead, so that the simulator can lie to them. */
#pragma once
#include <stdint.h>

int64_t clk_now_us(void); /* CLOCK_MONOTONIC, microseconds */
int64_t clk_unix_us(void); /* microseconds since 1970, for people and files: it may jump */
