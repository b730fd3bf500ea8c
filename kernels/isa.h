/* isa.h - which of the builds of kernels/meson.build this processor can run: what is asked here are the flags given there. */
#pragma once
#include <stdbool.h>

#ifdef __x86_64__
static inline bool isa_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
static inline bool isa_avx512(void) {
    return isa_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
static inline bool isa_vnni(void) { return isa_avx512() && __builtin_cpu_supports("avx512vnni"); }
#else
static inline bool isa_avx2(void) { return false; }
static inline bool isa_avx512(void) { return false; }
static inline bool isa_vnni(void) { return false; }
#endif
