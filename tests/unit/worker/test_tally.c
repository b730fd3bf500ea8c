/* test_tally.c - counts per domain come in whole steps, also where a step has more choices than are noted. */
#include "worker/tally.h"

#include <stdlib.h>

#include "tests/unit/run.h"

enum { E = 4, LAYERS = 2, K = 2, MANY = 100000 };

static struct model_config config = {.moe_layers = LAYERS, .gate = {.experts = E, .zero = 1, .k = K}};
static struct tally t;

static void setup(void) {
    struct why why;
    ck_assert_int_eq(tally_init(&t, &config, &why), 0);
}
static void teardown(void) { tally_clear(&t); }

static void expect(int domain, uint64_t tokens, const uint64_t *want) {
    uint64_t rows[LAYERS * E], got;
    ck_assert_uint_eq(tally_tokens(&t, domain), tokens);
    ck_assert(tally_read(&t, domain, rows, &got));
    ck_assert_uint_eq(got, tokens);
    for (int i = 0; i < LAYERS * E; i++) ck_assert_uint_eq(rows[i], want[i]);
}

START_TEST(whole_steps) {
    int32_t ids[] = {0, 1, 2, -1, 4, 3, 1, 0}; /* 4: identity */
    uint16_t domain[] = {5, 0, 5, 1};
    struct gating g = {.config = &config, .ids = ids};
    struct step_rows rows = {.T = 4, .domain = domain};
    static const uint64_t nothing[LAYERS * E] = {0}, five[] = {1, 1, 0, 1, 1, 1, 0, 1}, one[] = {1, 1, 0, 0, 1, 1, 0, 0};
    tally_layer(&t, 0, &g, &rows);
    tally_layer(&t, 1, &g, &rows);
    expect(5, 0, nothing);
    tally_step_end(&t, &rows);
    expect(5, 2, five);
    expect(1, 1, one);
    expect(2, 0, nothing);
}
END_TEST

START_TEST(a_step_of_many) {
    int32_t *ids = calloc(MANY * K, sizeof *ids);
    uint16_t *domain = calloc(MANY, sizeof *domain);
    ck_assert(ids && domain);
    for (int i = 0; i < MANY; i++) domain[i] = 3, ids[i * K] = i % 2, ids[i * K + 1] = 2 + i % 2;
    struct gating g = {.config = &config, .ids = ids};
    struct step_rows rows = {.T = MANY, .domain = domain};
    uint64_t want[LAYERS * E], got[LAYERS * E], tokens;
    for (int i = 0; i < LAYERS * E; i++) want[i] = MANY / 2;
    for (int l = 0; l < LAYERS; l++) tally_layer(&t, l, &g, &rows);
    ck_assert(!tally_read(&t, 3, got, &tokens)); /* part of it was added already */
    tally_step_end(&t, &rows);
    expect(3, MANY, want);
    free(ids);
    free(domain);
}
END_TEST

RUN("tally", setup, teardown, whole_steps, a_step_of_many)
