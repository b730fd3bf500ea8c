/* test_ep_layout.c - split and group against a reference that searches instead of sorting. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "fabric/ep_layout.h"

#include "tests/unit/run.h"


START_TEST(split_by_hand) {
    /* two tokens, k = 3, three workers: token 0 goes to 2, 0, 2; token 1 to 1, 2, 2 */
    static const int16_t worker[] = {2, 0, 2, 1, 2, 2}, slot[] = {5, 1, 4, 0, 3, 5};
    struct ep_split s;
    ck_assert_int_eq(ep_split_init(&s, 3, 4, 3, false), 0);
    ep_split_make(&s, 2, worker, slot, NULL);
    ck_assert_int_eq(s.tokens[0], 1);
    ck_assert_int_eq(s.tokens[1], 1);
    ck_assert_int_eq(s.tokens[2], 2);
    ck_assert_int_eq(s.pairs[2], 4);
    static const struct ep_pair want[] = {{0, 5}, {0, 4}, {1, 3}, {1, 5}};
    ck_assert_mem_eq(s.pair + 2 * 12, want, sizeof want);
    static const int32_t pair_of[] = {0, 0, 1, 0, 2, 3};
    ck_assert_mem_eq(s.pair_of, pair_of, sizeof pair_of);
    ck_assert_int_eq(s.token[1 * 4], 1); /* worker 1's only copy is of token 1 */
    ep_split_make(&s, 0, NULL, NULL, NULL);
    for (int w = 0; w < 3; w++) ck_assert_int_eq(s.tokens[w] + s.pairs[w], 0);
    ep_split_clear(&s);
}
END_TEST

START_TEST(group_by_hand) {
    static const struct ep_pair a[] = {{0, 2}, {0, 0}, {1, 2}}, b[] = {{0, 2}, {1, 1}};
    const struct ep_pair *pairs[] = {a, NULL, b};
    static const int n[] = {3, 0, 2};
    struct ep_group g;
    ck_assert_int_eq(ep_group_init(&g, 3, 4, 3), 0);
    ep_group_make(&g, 4, pairs, n);
    static const int32_t first[] = {0, 1, 2, 5, 5};
    ck_assert_mem_eq(g.first, first, sizeof first);
    static const int32_t from_a[] = {2, 0, 3}, from_b[] = {4, 1};
    ck_assert_mem_eq(g.row, from_a, sizeof from_a);
    ck_assert_mem_eq(g.row + 2 * 3, from_b, sizeof from_b);
    ck_assert_int_eq(g.rows, 5);
    static const int none[3] = {0};
    ep_group_make(&g, 0, pairs, none);
    ck_assert_int_eq(g.rows, 0);
    ck_assert_int_eq(g.first[0], 0);
    ep_group_clear(&g);
}
END_TEST

struct shape {
    int workers, tokens, topk, slots;
};

/* Routes of every worker; `all` on one expert for one seed in five. */
static void make_routes(uint64_t seed, const struct shape *sh, int16_t *worker, int16_t *slot) {
    for (int i = 0; i < sh->workers * sh->tokens * sh->topk; i++) {
        uint64_t d = hash_u64(seed << 32 | (uint64_t)(seed % 5 ? i : 0));
        worker[i] = (int16_t)(d % (uint64_t)sh->workers);
        slot[i] = (int16_t)((d >> 32) % (uint64_t)sh->slots);
    }
}

static void check_split(const struct ep_split *s, const struct shape *sh, const int16_t *worker, const int16_t *slot) {
    for (int w = 0; w < sh->workers; w++) {
        int pairs = 0, copies = 0;
        for (int t = 0; t < sh->tokens; t++) {
            bool copied = false;
            for (int i = t * sh->topk; i < (t + 1) * sh->topk; i++) {
                if (worker[i] != w) continue;
                const struct ep_pair *p = &s->pair[w * s->max_tokens * s->topk + s->pair_of[i]];
                ck_assert_int_eq(s->pair_of[i], pairs++);
                ck_assert_int_eq(p->slot, slot[i]);
                ck_assert_int_eq(s->token[w * s->max_tokens + p->token], t);
                ck_assert_int_eq(p->token, copies);
                copied = true;
            }
            copies += copied;
        }
        ck_assert_int_eq(s->pairs[w], pairs);
        ck_assert_int_eq(s->tokens[w], copies);
    }
}

/* Row of a pair = pairs of lower slots + pairs of its slot that come before it by (source, token, k). */
static void check_group(const struct ep_group *g, const struct shape *sh, const struct ep_pair *const *pairs, const int *n) {
    int total = 0;
    for (int w = 0; w < sh->workers; w++) total += n[w];
    ck_assert_int_eq(g->rows, total);
    for (int w = 0; w < sh->workers; w++) {
        for (int i = 0; i < n[w]; i++) {
            int row = 0;
            for (int v = 0; v < sh->workers; v++)
                for (int j = 0; j < n[v]; j++)
                    row += pairs[v][j].slot < pairs[w][i].slot ||
                           (pairs[v][j].slot == pairs[w][i].slot && (v < w || (v == w && j < i)));
            ck_assert_int_eq(g->row[w * g->max_pairs + i], row);
            ck_assert_int_ge(row, g->first[pairs[w][i].slot]);
            ck_assert_int_lt(row, g->first[pairs[w][i].slot + 1]);
        }
    }
}

START_TEST(random_shapes) {
    for (uint64_t seed = 1; seed <= 150; seed++) {
        uint64_t h = hash_u64(seed);
        struct shape sh = {1 + (int)(h % 8), (int)(h >> 8 & 15), 1 + (int)(h >> 16 & 7), 1 + (int)(h >> 24 & 7)};
        int routes = sh.tokens * sh.topk;
        int16_t *worker = calloc((size_t)(sh.workers * routes + 1), sizeof *worker);
        int16_t *slot = calloc((size_t)(sh.workers * routes + 1), sizeof *slot);
        make_routes(seed, &sh, worker, slot);
        struct ep_split s[8];
        for (int w = 0; w < sh.workers; w++) {
            ck_assert_int_eq(ep_split_init(&s[w], sh.workers, sh.tokens + 1, sh.topk, false), 0);
            ep_split_make(&s[w], sh.tokens, worker + w * routes, slot + w * routes, NULL);
            check_split(&s[w], &sh, worker + w * routes, slot + w * routes);
        }
        struct ep_group g;
        ck_assert_int_eq(ep_group_init(&g, sh.workers, sh.slots, (sh.tokens + 1) * sh.topk), 0);
        for (int me = 0; me < sh.workers; me++) {
            const struct ep_pair *pairs[8];
            int n[8];
            for (int w = 0; w < sh.workers; w++) {
                pairs[w] = s[w].pair + me * (sh.tokens + 1) * sh.topk;
                n[w] = s[w].pairs[me];
            }
            ep_group_make(&g, sh.slots, pairs, n);
            check_group(&g, &sh, pairs, n);
        }
        for (int w = 0; w < sh.workers; w++) ep_split_clear(&s[w]);
        ep_group_clear(&g);
        free(worker);
        free(slot);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("ep_layout");
    TCase *t = tcase_create("all");
    tcase_add_test(t, split_by_hand);
    tcase_add_test(t, group_by_hand);
    tcase_add_test(t, random_shapes);
    suite_add_tcase(s, t);
    return run_suite(s);
}
