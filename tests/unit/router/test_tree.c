/* test_tree.c - searches over random trees against scoring every leaf, and what a beam may miss. */
#include <math.h>
#include <stdlib.h>

#include "router/tree.h"

#include "tests/unit/run.h"


enum { NODES = 512, LEAVES = 4096 };

struct forest { /* logits of every node of a tree */
    struct tree_rule rule;
    float first[NODES], second[NODES], third[LEAVES], bias[NODES];
    bool biased;
};

static uint32_t random_state = 1;
static float random_float(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(random_state >> 8) * 0x1p-24f * 4 - 2;
}

static const float *logits_of(const struct forest *f, int level, int node) {
    return level == 1 ? f->second + node * f->rule.branch[1] : f->third + node * f->rule.branch[2];
}

/* Runs a search; *expanded counts the inner nodes that it asked for. */
static void search(const struct forest *f, int k, int32_t *ids, float *weights, int *expanded) {
    struct tree_search s;
    const struct tree_node *nodes;
    struct tree_node *room = calloc((size_t)tree_room(&f->rule, k), sizeof *room);
    tree_begin(&s, &f->rule, k, room, f->first, f->biased ? f->bias : NULL);
    *expanded = 0;
    for (int n, level; (n = tree_wants(&s, &level, &nodes));)
        for (int i = 0; i < n; i++, ++*expanded) tree_give(&s, i, logits_of(f, level, nodes[i].id));
    tree_pick(&s, ids, weights);
    free(room);
}

static double log_p(const float *z, int n, int i) {
    double sum = 0;
    for (int j = 0; j < n; j++) sum += exp((double)z[j]);
    return z[i] - log(sum);
}

struct leaf {
    double rank, score;
    int id;
};
static int by_rank(const void *a, const void *b) {
    const struct leaf *x = a, *y = b;
    return x->rank != y->rank ? (x->rank < y->rank ? 1 : -1) : x->id - y->id;
}

/* Every leaf's score, best first. */
static int all_leaves(const struct forest *f, struct leaf *out) {
    const int *b = f->rule.branch;
    int n = 0;
    for (int i = 0; i < b[0]; i++)
        for (int j = 0; j < b[1]; j++)
            for (int l = 0; l < b[2]; l++, n++) {
                double s = log_p(f->first, b[0], i) + log_p(logits_of(f, 1, i), b[1], j) +
                           log_p(logits_of(f, 2, i * b[1] + j), b[2], l);
                out[n] = (struct leaf){s + (f->biased ? f->bias[i] : 0), s, n};
            }
    qsort(out, (size_t)n, sizeof *out, by_rank);
    return n;
}

static void plant(struct forest *f, int a, int b, int c, enum tree_search_kind search_kind, int beam) {
    *f = (struct forest){.rule = {.branch = {a, b, c}, .search = search_kind, .beam = beam}};
    for (int i = 0; i < a; i++) f->first[i] = random_float(), f->bias[i] = random_float() / 2;
    for (int i = 0; i < a * b; i++) f->second[i] = random_float();
    for (int i = 0; i < a * b * c; i++) f->third[i] = random_float();
}

START_TEST(exact_is_the_best_of_all) {
    static const int shapes[][3] = {{16, 8, 8}, {1, 1, 1}, {5, 3, 7}, {1, 9, 2}, {2, 1, 13}, {3, 4, 1}};
    static struct leaf leaves[LEAVES];
    static struct forest f;
    for (int round = 0; round < 200; round++) {
        const int *b = shapes[round % 6];
        plant(&f, b[0], b[1], b[2], TREE_EXACT, 1);
        f.biased = round % 4 == 3;
        int n = all_leaves(&f, leaves), k = 1 + round % 8, expanded;
        if (k > n) k = n;
        int32_t ids[8];
        float weights[8];
        search(&f, k, ids, weights, &expanded);
        double sum = 0;
        for (int j = 0; j < k; j++) sum += exp(leaves[j].score);
        for (int j = 0; j < k; j++) {
            ck_assert_int_eq(ids[j], leaves[j].id);
            ck_assert_double_eq_tol((double)weights[j], exp(leaves[j].score) / sum, 1e-5);
        }
        ck_assert_int_le(expanded, b[0] + b[0] * b[1]);
    }
}
END_TEST

START_TEST(a_wide_beam_is_exact_and_a_narrow_one_is_not) {
    static struct leaf leaves[LEAVES];
    static struct forest f;
    int missed = 0;
    for (int round = 0; round < 100; round++) {
        int32_t ids[4];
        float weights[4];
        int expanded;
        plant(&f, 4, 4, 4, TREE_BEAM, 16);
        all_leaves(&f, leaves);
        search(&f, 4, ids, weights, &expanded);
        for (int j = 0; j < 4; j++) ck_assert_int_eq(ids[j], leaves[j].id);
        f.rule.search = TREE_GREEDY;
        f.rule.beam = 1;
        search(&f, 1, ids, weights, &expanded);
        ck_assert_int_eq(expanded, 2); /* one node at level 0, one at level 1 */
        ck_assert_float_eq(weights[0], 1);
        missed += ids[0] != leaves[0].id;
    }
    ck_assert_int_gt(missed, 10);
}
END_TEST

START_TEST(equal_scores_go_to_the_lower_leaf) {
    static struct forest f;
    for (int kind = TREE_GREEDY; kind <= TREE_EXACT; kind++) {
        f = (struct forest){
            .rule = {.branch = {3, 2, 4}, .search = (enum tree_search_kind)kind, .beam = kind == TREE_BEAM ? 2 : 1}};
        int32_t ids[4];
        float weights[4];
        int expanded;
        search(&f, 4, ids, weights, &expanded);
        for (int j = 0; j < 4; j++) {
            ck_assert_int_eq(ids[j], j);
            ck_assert_float_eq_tol(weights[j], 0.25f, 1e-6f);
        }
    }
}
END_TEST

START_TEST(bad_numbers_still_give_different_leaves) {
    static struct forest f;
    for (int kind = TREE_GREEDY; kind <= TREE_EXACT; kind++) {
        plant(&f, 3, 2, 4, (enum tree_search_kind)kind, kind == TREE_BEAM ? 2 : 1);
        for (int i = 0; i < 3; i++) f.first[i] = i == 1 ? INFINITY : NAN;
        for (int i = 0; i < 24; i += 2) f.third[i] = NAN;
        int32_t ids[4];
        float weights[4];
        int expanded;
        search(&f, 4, ids, weights, &expanded);
        for (int j = 0; j < 4; j++) {
            ck_assert(ids[j] >= 0 && ids[j] < 24);
            for (int i = 0; i < j; i++) ck_assert_int_ne(ids[i], ids[j]);
        }
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("tree");
    TCase *t = tcase_create("all");
    tcase_add_test(t, exact_is_the_best_of_all);
    tcase_add_test(t, a_wide_beam_is_exact_and_a_narrow_one_is_not);
    tcase_add_test(t, equal_scores_go_to_the_lower_leaf);
    tcase_add_test(t, bad_numbers_still_give_different_leaves);
    suite_add_tcase(s, t);
    return run_suite(s);
}
