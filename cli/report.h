/* report.h - `cadre experts --report FILE`: a trace as figures. */
#pragma once
#include <stdbool.h>

/* labels may be NULL. Returns the exit status; complaints are on stderr. */
int report_print(const char *trace_file, const char *labels_file, bool json);
