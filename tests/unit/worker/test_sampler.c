/* test_sampler.c - known answers of the generator, the cuts of top-k, top-p and min-p, and the shape of what is drawn. */
#include "worker/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "tests/unit/run.h"

enum { V = 1000 };

static struct logit_stats stats_of(const float *logits, int n) {
    struct logit_stats s = {.max = logits[0]};
    double sum = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > s.max) s.max = logits[i], s.argmax = i;
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - (double)s.max);
    s.lse = s.max + (float)log(sum);
    return s;
}

static int32_t pick(const float *logits, int n, struct sampling how, int position, struct seq_out *out) {
    struct sampler s;
    struct seq_out mine;
    struct logit_stats stats = stats_of(logits, n);
    ck_assert_int_eq(sampler_init(&s, n), 0);
    sampler_pick(&s, logits, &stats, &how, position, out ? out : &mine);
    sampler_clear(&s);
    return (out ? out : &mine)->token;
}

START_TEST(generator_known_answer) { /* philox4x32-10, counter 0, key 0: 6627e8d5 e169c58d ... */
    ck_assert(sampler_uniform(0, 0) == (double)(0x6627e8d5e169c58dull >> 11) * 0x1p-53);
    ck_assert(sampler_uniform(0, 1) != sampler_uniform(0, 0));
    ck_assert(sampler_uniform(1, 0) != sampler_uniform(0, 0));
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        double u = sampler_uniform(42, (uint64_t)i);
        ck_assert(u >= 0 && u < 1);
        sum += u;
    }
    ck_assert(fabs(sum / 100000 - 0.5) < 0.005);
}
END_TEST

START_TEST(greedy_and_ties) {
    float logits[V] = {0};
    logits[700] = logits[300] = 5;
    ck_assert_int_eq(pick(logits, V, (struct sampling){0}, 9, NULL), 300);
    ck_assert_int_eq(pick(logits, V, (struct sampling){.temperature = 1e-9f, .seed = 3}, 9, NULL), 300);
    for (int p = 0; p < 50; p++)
        ck_assert_int_eq(pick(logits, V, (struct sampling){.temperature = 2, .top_k = 1, .seed = 3}, p, NULL), 300);
}
END_TEST

START_TEST(no_number_is_left) { /* whatever a broken model or plan brings, an id of the vocabulary comes out */
    float logits[3][V] = {0}; /* all NaN, some infinite, all equal */
    for (int i = 0; i < V; i++) logits[0][i] = NAN, logits[1][i] = i % 3 ? 1 : INFINITY;
    int32_t order[V + 1] = {-1}; /* what lies before the list is no id */
    struct sampler s;
    struct seq_out out;
    ck_assert_int_eq(sampler_init(&s, V), 0);
    int32_t *own = s.order;
    s.order = order + 1;
    for (int i = 0; i < 3; i++) {
        for (int cut = 0; cut < 8; cut++) {
            struct sampling how = {.temperature = 1, .min_p = cut & 1 ? 1.5f : 0.1f, .seed = 4};
            if (cut & 2) how.top_k = 7;
            if (cut & 4) how.top_p = 0.5f;
            struct logit_stats stats = stats_of(logits[i], V);
            sampler_pick(&s, logits[i], &stats, &how, cut, &out);
            ck_assert_msg(out.token >= 0 && out.token < V, "logits %d, cut %d: token %d", i, cut, out.token);
        }
    }
    s.order = own;
    sampler_clear(&s);
}
END_TEST

START_TEST(logprobs) {
    float logits[V];
    struct seq_out out;
    for (int i = 0; i < V; i++) logits[i] = (float)((i * 37) % V) * 0.01f;
    struct logit_stats stats = stats_of(logits, V);
    pick(logits, V, (struct sampling){.logprobs = 6}, 0, &out);
    ck_assert_int_eq(out.n_top, 5);
    ck_assert_int_eq(out.top[0].id, out.token);
    ck_assert(out.logprob == out.top[0].logprob);
    for (int i = 0; i < 5; i++) {
        ck_assert(out.top[i].logprob == logits[out.top[i].id] - stats.lse);
        if (i) ck_assert(out.top[i].logprob <= out.top[i - 1].logprob);
    }
    pick(logits, V, (struct sampling){.logprobs = 1}, 0, &out);
    ck_assert_int_eq(out.n_top, 0);
}
END_TEST

/* What is drawn stays within the cut, and everything inside the cut is drawn sooner or later. */
static int distinct(const float *logits, int n, struct sampling how, int32_t *seen) {
    int count = 0;
    for (int i = 0; i < n; i++) seen[i] = 0;
    for (int p = 0; p < 4000; p++) {
        int32_t t = pick(logits, n, how, p, NULL);
        if (!seen[t]++) count++;
    }
    return count;
}

START_TEST(cuts) {
    float logits[8] = {0, 1, 2, 3, 3, 2, 1, 0};
    int32_t seen[8];
    ck_assert_int_eq(distinct(logits, 8, (struct sampling){.temperature = 1, .seed = 1}, seen), 8);
    ck_assert_int_eq(distinct(logits, 8, (struct sampling){.temperature = 1, .top_k = 3, .seed = 1}, seen), 3);
    ck_assert(seen[3] && seen[4] && seen[2]); /* the tie 2, 5 goes to the lower id */
    ck_assert_int_eq(distinct(logits, 8, (struct sampling){.temperature = 1, .top_p = 0.5f, .seed = 1}, seen), 2);
    ck_assert_int_eq(distinct(logits, 8, (struct sampling){.temperature = 1, .top_p = 0.01f, .seed = 1}, seen), 1);
    ck_assert_int_eq(distinct(logits, 8, (struct sampling){.temperature = 1, .min_p = 0.3f, .seed = 1}, seen), 4);
    ck_assert_int_eq(distinct(logits, 8, (struct sampling){.temperature = 1, .min_p = 0.3f, .top_k = 3, .seed = 1}, seen), 3);
    /* top-p speaks of the mass that top-k left: of {3, 4, 2} the first two have 1 - e^2 / (2 e^3 + e^2) = 0.845 */
    ck_assert_int_eq(distinct(logits, 8, (struct sampling){.temperature = 1, .top_k = 3, .top_p = 0.84f, .seed = 1}, seen), 2);
    ck_assert_int_eq(distinct(logits, 8, (struct sampling){.temperature = 1, .top_k = 3, .top_p = 0.86f, .seed = 1}, seen), 3);
}
END_TEST

START_TEST(frequencies_follow_the_weights) {
    float logits[4] = {0, 1, 2, 3};
    int32_t seen[4];
    double want[4], total = 0, chi = 0;
    for (int i = 0; i < 4; i++) total += want[i] = exp((double)logits[i] / 0.8);
    distinct(logits, 4, (struct sampling){.temperature = 0.8f, .seed = 11}, seen);
    for (int i = 0; i < 4; i++) {
        double expected = 4000 * want[i] / total;
        chi += ((double)seen[i] - expected) * ((double)seen[i] - expected) / expected;
    }
    ck_assert_msg(chi < 16.3, "chi square %.1f is beyond the 0.1 %% point of 3 degrees of freedom", chi);
}
END_TEST

START_TEST(pure_function_of_seed_and_position) {
    float logits[V];
    for (int i = 0; i < V; i++) logits[i] = sinf((float)i) * 2;
    struct sampling how = {.temperature = 1, .top_p = 0.9f, .seed = 5};
    int moved = 0;
    for (int p = 0; p < 30; p++) {
        ck_assert_int_eq(pick(logits, V, how, p, NULL), pick(logits, V, how, p, NULL));
        moved += pick(logits, V, how, p, NULL) != pick(logits, V, how, p + 1, NULL);
    }
    ck_assert_int_gt(moved, 20);
}
END_TEST

int main(void) {
    Suite *s = suite_create("sampler");
    TCase *t = tcase_create("sampler");
    tcase_add_test(t, generator_known_answer);
    tcase_add_test(t, greedy_and_ties);
    tcase_add_test(t, no_number_is_left);
    tcase_add_test(t, logprobs);
    tcase_add_test(t, cuts);
    tcase_add_test(t, frequencies_follow_the_weights);
    tcase_add_test(t, pure_function_of_seed_and_position);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
