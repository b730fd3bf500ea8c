/* report.h - `cadre experts --report FILE`: a trace as figures. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* labels may be NULL; layer: only this one, as the model numbers it, -1 for all. Returns the exit status; complaints are on
 * stderr. */
int report_print(const char *trace_file, const char *labels_file, int64_t layer, bool json);
