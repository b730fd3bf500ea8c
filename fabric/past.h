/* past.h - copies past the caches, into memory that another core has read and will read again.
 *
 * An ordinary store first fetches its line from the cache of the core that read it last, and waits: between cores that share no
 * cache a room is filled at a tenth of the speed of a copy. A streaming store does not ask. The reader then gets the lines
 * from memory instead of from our cache, so for little frames the ordinary way is quicker (tests/bench/bench_fabric). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "fabric/fabric.h"

enum { PAST_LINE = 64, PAST_FRAME_BYTES = 16 * 1024 /* the least frame that is worth it */ };

/* Whether rows of row_bytes that begin at `rows`, in a frame for `peer`, are to be written so. */
static inline bool past_pays(const struct fabric *f, int peer, size_t frame_bytes, const void *rows, size_t row_bytes) {
#if defined(__SSE2__)
    return f->near >> peer & 1 && frame_bytes >= PAST_FRAME_BYTES && ((uintptr_t)rows | row_bytes) % PAST_LINE == 0;
#else
    (void)f, (void)peer, (void)frame_bytes, (void)rows, (void)row_bytes;
    return false;
#endif
}

/* Whole lines. Nobody may look for them before past_done. */
static inline void past_copy(void *to, const void *from, size_t bytes) {
#if defined(__SSE2__)
    __m128i *out = to;
    const __m128i *in = from;
    for (size_t i = 0; i < bytes / sizeof *out; i += 4) {
        __m128i a = _mm_loadu_si128(in + i), b = _mm_loadu_si128(in + i + 1), c = _mm_loadu_si128(in + i + 2),
                d = _mm_loadu_si128(in + i + 3);
        _mm_stream_si128(out + i, a);
        _mm_stream_si128(out + i + 1, b);
        _mm_stream_si128(out + i + 2, c);
        _mm_stream_si128(out + i + 3, d);
    }
#else
    memcpy(to, from, bytes);
#endif
}

static inline void past_done(void) {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}
