/* test_arena.c - zeroed, aligned, disjoint, and without new memory once it has seen its largest round. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/hash.h"

#include "tests/unit/run.h"


static bool all_zero(const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i]) return false;
    return true;
}

START_TEST(zeroed_aligned_disjoint) {
    struct arena a;
    unsigned char *p[500];
    size_t n[500];
    arena_init(&a, 1000); /* no multiple of the alignment, smaller than some requests */
    for (size_t i = 0; i < 500; i++) {
        n[i] = hash_u64(i) % (i % 50 ? 300 : 5000);
        p[i] = arena_alloc(&a, n[i]);
        ck_assert_ptr_nonnull(p[i]);
        ck_assert_uint_eq((uintptr_t)p[i] % 64, 0);
        ck_assert(all_zero(p[i], n[i]));
        memset(p[i], (int)(i % 255) + 1, n[i]);
    }
    for (size_t i = 0; i < 500; i++)
        for (size_t j = 0; j < n[i]; j++) if (p[i][j] != i % 255 + 1) ck_abort_msg("block %zu was overwritten", i);
    ck_assert_uint_le(a.used, a.held);
    arena_clear(&a);
    ck_assert_uint_eq(a.held, 0);
    arena_clear(&a);
}
END_TEST

static void one_round(struct arena *a, uint64_t seed) {
    for (uint64_t i = 0; i < 100; i++) {
        size_t n = hash_u64(seed + i) % 2000 + 1;
        unsigned char *p = arena_alloc(a, n);
        ck_assert(all_zero(p, n)); /* although the last round left its bytes there */
        memset(p, 0xee, n);
    }
}

START_TEST(settles) {
    struct arena a;
    arena_init(&a, 4096);
    for (int round = 0; round < 3; round++) {
        one_round(&a, 7);
        arena_reset(&a);
        ck_assert_uint_eq(a.used, 0);
    }
    const size_t held = a.held;
    for (int round = 0; round < 50; round++) {
        one_round(&a, 7);
        arena_reset(&a);
    }
    ck_assert_uint_eq(a.held, held);
    arena_clear(&a);
}
END_TEST

START_TEST(strings_and_arrays) {
    struct arena a;
    arena_init(&a, 0);
    ck_assert_str_eq(arena_strdup(&a, "abcdef", 3), "abc");
    ck_assert_str_eq(arena_strdup(&a, NULL, 0), "");
    uint32_t *v = arena_array(&a, uint32_t, 1000);
    ck_assert(all_zero((unsigned char *)v, 4000));
    ck_assert_ptr_nonnull(arena_alloc(&a, 0));
    ck_assert_ptr_ne(arena_alloc(&a, 0), arena_alloc(&a, 0));
    ck_assert_ptr_null(arena_alloc(&a, SIZE_MAX));
    arena_clear(&a);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("arena");
    TCase *t = tcase_create("all");
    tcase_add_test(t, zeroed_aligned_disjoint);
    tcase_add_test(t, settles);
    tcase_add_test(t, strings_and_arrays);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
