/* cpu.h - the fast backend: vector kernels for x86-64 over a thread team. */
#pragma once
#include "kernels/kernels.h"

/* o->isa: "auto", "avx2" or "avx512". "auto" falls back on ref where neither can run. Errors as backend_open. */
int cpu_open(const struct backend_options *o, struct backend **out, struct why *why);
