/* hash.h - small integer mixing. Not for adversaries, not for checksums of weights (those are XXH3, see worker/). */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* splitmix64's finaliser: a bijection on 64 bits with full avalanche. */
static inline uint64_t hash_u64(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* FNV-1a: for short keys in our own tables. */
static inline uint64_t hash_bytes(const void *data, size_t len) {
    const unsigned char *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}
