/* test_sampler.c - known answers of the generator, the cuts of top-k, top-p and min-p, and the shape of what is drawn. */
#include "worker/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "tests/unit/run.h"

enum { V = 1000 };
static struct backend *backend;

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
    ck_assert_int_eq(sampler_init(&s, backend, n), 0);
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
    ck_assert_int_eq(sampler_init(&s, backend, V), 0);
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
    ck_assert_int_eq(distinct(logits, 8, (struct sampling){.temperature = 1, .min_p = 2, .seed = 1}, seen), 1);
    ck_assert(seen[3]); /* the heaviest, where nothing would stay */
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

struct token {
    int32_t id;
    double weight;
};
static int by_weight(const void *a, const void *b) {
    const struct token *x = a, *y = b;
    return x->weight != y->weight ? (x->weight < y->weight) - (x->weight > y->weight) : x->id - y->id;
}

/* The survivors by the definition: everything sorted, then cut. `doubt`: some cut is decided by less than f32 can tell. */
static int survivors(const float *logits, int n, const struct sampling *how, struct token *out, double *total, bool *doubt) {
    const double hair = 1e-5;
    double top = logits[0], mass = 0, all = 0;
    int keep = 0;
    *doubt = false;
    for (int i = 1; i < n; i++) top = fmax(top, (double)logits[i]);
    for (int i = 0; i < n; i++)
        out[i] = (struct token){i, isnan(logits[i]) ? 0 : exp(((double)logits[i] - top) / (double)how->temperature)};
    qsort(out, (size_t)n, sizeof *out, by_weight);
    if (how->top_k > 0 && how->top_k < n) n = how->top_k;
    for (int i = 0; i < n; i++) all += out[i].weight;
    if (how->top_p > 0 && how->top_p < 1) {
        while (keep < n && mass < (double)how->top_p * all) mass += out[keep++].weight;
        *doubt |= fabs(mass - (double)how->top_p * all) < hair * all ||
                  fabs(mass - out[keep - 1].weight - (double)how->top_p * all) < hair * all;
        n = keep;
    }
    if (how->min_p > 0) {
        for (keep = 0; keep < n && out[keep].weight >= (double)how->min_p; keep++) continue;
        for (int i = 0; i < n; i++) *doubt |= fabs(out[i].weight - (double)how->min_p) < hair;
        n = keep ? keep : 1;
    }
    *total = 0;
    for (int i = 0; i < n; i++) *total += out[i].weight;
    return n;
}

/* Two neighbours that f32 may have in another order. */
static bool alike(const struct token *t) {
    return t[0].weight > t[1].weight && t[0].weight - t[1].weight < 4e-7 * t[0].weight;
}

enum { BIG = 200001 };

static void make_row(float *logits, int n, int round) {
    static uint32_t state = 7;
    const float spread[] = {0.01f, 1, 4, 40};
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int j = 0; j < 4; j++) sum += (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f;
        logits[i] = (sum - 2) * spread[round / 7 % 4];
        if (round % 5 == 0) logits[i] = rintf(logits[i]); /* ties */
        if (round % 11 == 4 && n < BIG) logits[i] = floorf(sum) * 2e-5f; /* weights whose last digits alone differ */
        if (round % 9 == 3 && i && state >> 30 == 0) logits[i] = state >> 29 & 1 ? NAN : -INFINITY;
    }
}

static struct sampling any_cuts(int round) {
    struct sampling how = {.temperature = round % 3 ? 1 : 0.3f, .seed = (uint64_t)round};
    if (round & 1) how.top_k = 1 + round * 7 % 60;
    if (round & 2) how.top_p = 0.05f + 0.9f * (float)(round % 101) / 100;
    if (round & 4) how.min_p = 0.3f * (float)(round % 53) / 53;
    return how;
}

/* Any cuts, vocabularies that end within a lane, rows from all but flat to one that towers above the others, with numbers
 * missing; large ones of the last kind alone, since of flat ones f32 can tell little. */
START_TEST(as_the_definition_has_it) {
    static float logits[BIG];
    static struct token sorted[BIG];
    const int vocab[] = {1, 2, 3, 5, 64, 997, 5003};
    int held = 0;
    for (int round = 0; round < 1500; round++) {
        const int n = round < 140 && round / 7 % 4 == 3 ? BIG : vocab[round % 7];
        make_row(logits, n, round);
        const struct sampling how = any_cuts(round);
        double total, mass = 0, u = sampler_uniform(how.seed, (uint64_t)round);
        bool doubt;
        int left = survivors(logits, n, &how, sorted, &total, &doubt), at = 0;
        while (at < left - 1 && mass + sorted[at].weight <= u * total) mass += sorted[at++].weight;
        doubt |= fabs(mass - u * total) < 1e-5 * total || fabs(mass + sorted[at].weight - u * total) < 1e-5 * total;
        const int32_t got = pick(logits, n, how, round, NULL);
        if (doubt || (at > 0 && alike(&sorted[at - 1])) || (at < n - 1 && alike(&sorted[at]))) continue;
        held++;
        ck_assert_msg(got == sorted[at].id, "round %d, %d tokens: %d came, wanted %d", round, n, got, sorted[at].id);
    }
    ck_assert_int_gt(held, 1000);
}
END_TEST

/* Of a row that goes on with nothing top-k passes blocks over; of its beginning alone, none. Not a token may change by that,
 * however near to another the draw falls. */
START_TEST(what_is_passed_over_changes_nothing) {
    enum { FRONT = 997, ALL = 16003 };
    static float logits[ALL];
    for (int i = 0; i < ALL; i++) logits[i] = i % 2 ? -INFINITY : -1000;
    for (int round = 0; round < 400; round++) {
        struct sampling how = any_cuts(round);
        how.top_k = 32 + round % 30; /* of 62 blocks: more than half */
        make_row(logits, FRONT, round);
        for (int p = 0; p < 10; p++) {
            const int32_t got = pick(logits, ALL, how, p, NULL), want = pick(logits, FRONT, how, p, NULL);
            ck_assert_msg(got == want, "round %d, position %d: %d came, wanted %d", round, p, got, want);
        }
    }
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
    struct why why;
    Suite *s = suite_create("sampler");
    if (backend_open(&(struct backend_options){"auto", 1}, &backend, &why) < 0) die("%s", why.text);
    TCase *t = tcase_create("sampler");
    tcase_add_test(t, generator_known_answer);
    tcase_add_test(t, greedy_and_ties);
    tcase_add_test(t, no_number_is_left);
    tcase_add_test(t, logprobs);
    tcase_add_test(t, cuts);
    tcase_add_test(t, frequencies_follow_the_weights);
    tcase_add_test(t, as_the_definition_has_it);
    tcase_add_test(t, what_is_passed_over_changes_nothing);
    tcase_add_test(t, pure_function_of_seed_and_position);
    suite_add_tcase(s, t);
    const int failed = run_suite_here(s);
    backend_close(backend);
    return failed;
}
