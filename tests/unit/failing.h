/* failing.h - memory that runs out at the n-th allocation, for one test program. The linker routes allocations of Cadre's
 * libraries here (--wrap=malloc, calloc, realloc, aligned_alloc); those of other libraries are their own. */
#pragma once
#include <stdbool.h>
#include <stdlib.h>

static long left = -1; /* allocations until the next one fails, once; -1: never */
static bool refuse_now(void) { return left >= 0 && left-- == 0; }

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n) { return refuse_now() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { return refuse_now() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { return refuse_now() ? NULL : __real_realloc(p, n); }
void *__wrap_aligned_alloc(size_t align, size_t n) { return refuse_now() ? NULL : __real_aligned_alloc(align, n); }
