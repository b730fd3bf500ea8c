/* test_exact.c - the oracle on real weights: the exact upcycled model (every FFN cut into experts, all active with weight one)
 * must reproduce the greedy text of the dense model it was cut from, as computed by an independent implementation.
 *
 * usage: test_exact EXPECTED.json MODEL_DIR [TOKENS]      skipped when MODEL_DIR is empty; TOKENS: of each answer, at most */
#include "tests/golden/runner.h"

#include "base/clk.h"
#include "base/log.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static int argmax(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static int read_ids(const json_t *array, int32_t *ids) {
    int n = (int)json_array_size(array);
    if (n < 1 || n > RUNNER_MAX_TOKENS) die("the expected file has a list of %d ids; room for %d", n, RUNNER_MAX_TOKENS);
    for (int i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(array, (size_t)i));
    return n;
}

/* Feeds back our own tokens, not the expected ones, so one wrong token spoils the rest as it would in use. Returns the
 * number of leading tokens that agree. */
static int generate(struct runner *r, int32_t *ids, int n_prompt, const int32_t *want, int n_want) {
    int V = r->solo.checkpoint.config.vocab;
    for (int i = 0, first = 0; i < n_want; i++) {
        int n = n_prompt + i;
        if (solo_chunk(&r->solo, ids, first, n - first) < 0) die("the forward pass failed");
        ids[n] = argmax(r->solo.forward.logits + (size_t)(n - first - 1) * (size_t)V, V);
        if (ids[n] != want[i]) return i;
        first = n;
    }
    return n_want;
}

int main(int argc, char **argv) {
    if (argc < 3) die("usage: test_exact EXPECTED.json MODEL_DIR [TOKENS]");
    int at_most = argc > 3 ? (int)strtol(argv[3], NULL, 10) : RUNNER_MAX_TOKENS;
    if (!argv[2][0]) {
        printf("1..0 # SKIP no model directory: configure with -Dmodel_exact=DIR\n");
        return 0;
    }
    json_error_t error;
    json_t *cases = json_load_file(argv[1], 0, &error), *one;
    if (!cases) die("%s: %s", argv[1], error.text);
    int failed = 0;
    size_t i;
    struct runner r;
    struct why why;
    if (runner_open(&r, argv[2], &(struct runner_options){.isa = "auto", .threads = 2, .weights = FMT_F32}, &why) < 0)
        die("%s", why.text);
    json_array_foreach(cases, i, one) {
        int32_t ids[RUNNER_MAX_TOKENS], want[RUNNER_MAX_TOKENS];
        int n_prompt = read_ids(json_object_get(one, "prompt_ids"), ids), n_want = read_ids(json_object_get(one, "ids"), want);
        if (n_want > at_most) n_want = at_most;
        if (n_prompt + n_want > RUNNER_MAX_TOKENS) n_want = RUNNER_MAX_TOKENS - n_prompt;
        int64_t start_us = clk_now_us();
        int agreed = generate(&r, ids, n_prompt, want, n_want);
        printf("%s %zu - prompt of %d tokens: %d of %d greedy tokens equal the dense model's (%.1f s)\n",
               agreed == n_want ? "ok" : "not ok", i + 1, n_prompt, agreed, n_want, (double)(clk_now_us() - start_us) / 1e6);
        failed += agreed != n_want;
    }
    printf("1..%zu\n", json_array_size(cases));
    runner_close(&r);
    json_decref(cases);
    return failed > 0;
}
