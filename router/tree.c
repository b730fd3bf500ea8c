/* tree.c - greedy, beam and exact search over three levels. Every list is kept sorted by insertion: they are short. */
#include "router/tree.h"

#include <stdbool.h>
#include <stddef.h>

#include "router/softmax.h"

enum { LAST = TREE_LEVELS - 1 };

int tree_room(const struct tree_rule *r, int k) {
    if (r->search == TREE_EXACT) return r->branch[0] + r->branch[0] * r->branch[1] + k;
    return 2 * r->beam + k;
}

static bool better(const struct tree_node *a, const struct tree_node *b) {
    if (a->rank != b->rank) return a->rank > b->rank;
    /* an inner node first: a leaf as good, with a lower id, may be below */
    if (a->level != b->level) return a->level < b->level;
    return a->id < b->id;
}

/* Keeps the best `most` of what comes, best first. */
static void keep(struct tree_node *list, int *n, int most, const struct tree_node *x) {
    if (*n == most && !better(x, &list[most - 1])) return;
    int i = *n < most ? (*n)++ : most - 1;
    for (; i > 0 && better(x, &list[i - 1]); i--) list[i] = list[i - 1];
    list[i] = *x;
}

static void heap_push(struct tree_search *s, const struct tree_node *x) {
    int i = s->n_open++;
    for (; i > 0 && better(x, &s->open[(i - 1) / 2]); i = (i - 1) / 2) s->open[i] = s->open[(i - 1) / 2];
    s->open[i] = *x;
}

static struct tree_node heap_pop(struct tree_search *s) {
    struct tree_node top = s->open[0], last = s->open[--s->n_open];
    int i = 0;
    for (int child; (child = 2 * i + 1) < s->n_open; i = child) {
        if (child + 1 < s->n_open && better(&s->open[child + 1], &s->open[child])) child++;
        if (!better(&s->open[child], &last)) break;
        s->open[i] = s->open[child];
    }
    s->open[i] = last;
    return top;
}

static bool exact(const struct tree_search *s) { return s->rule->search == TREE_EXACT; }

/* Whether nothing under this node can still be among the k best. Equal ranks can: a lower id may be found. */
static bool hopeless(const struct tree_search *s, const struct tree_node *x) {
    return s->n_leaves == s->k && x->rank < s->leaves[s->k - 1].rank;
}

static void offer(struct tree_search *s, const struct tree_node *x) {
    if (x->level == LAST) keep(s->leaves, &s->n_leaves, s->k, x);
    else if (!exact(s)) keep(s->next, &s->n_next, s->rule->beam, x);
    else if (!hopeless(s, x)) heap_push(s, x);
}

static void offer_children(struct tree_search *s, const struct tree_node *parent, int level, const float *logits) {
    int n = s->rule->branch[level];
    double lse = log_sum_exp(logits, n);
    for (int i = 0; i < n; i++) {
        float step = log_probability(logits[i], lse, n);
        offer(s, &(struct tree_node){parent->id * n + i, (int16_t)level, parent->score + step, parent->rank + step});
    }
}

static void next_level(struct tree_search *s) {
    struct tree_node *expanded = s->open;
    s->open = s->next;
    s->n_open = s->n_next;
    s->next = expanded;
    s->n_next = 0;
}

void tree_begin(struct tree_search *s, const struct tree_rule *rule, int k, struct tree_node *room, const float *logits,
                const float *bias) {
    *s = (struct tree_search){.rule = rule, .k = k, .leaves = room, .open = room + k};
    s->next = exact(s) ? NULL : s->open + rule->beam;
    int n = rule->branch[0];
    double lse = log_sum_exp(logits, n);
    for (int i = 0; i < n; i++) {
        float score = log_probability(logits[i], lse, n);
        offer(s, &(struct tree_node){i, 0, score, bias ? score + bias[i] : score});
    }
    if (!exact(s)) next_level(s);
}

int tree_wants(struct tree_search *s, int *level, const struct tree_node **nodes) {
    if (!s->n_open || (exact(s) && hopeless(s, &s->open[0]))) return 0;
    *nodes = s->open;
    *level = s->open[0].level + 1;
    return exact(s) ? 1 : s->n_open;
}

void tree_give(struct tree_search *s, int i, const float *logits) {
    if (exact(s)) {
        struct tree_node parent = heap_pop(s);
        offer_children(s, &parent, parent.level + 1, logits);
        return;
    }
    offer_children(s, &s->open[i], s->open[i].level + 1, logits);
    if (i == s->n_open - 1) next_level(s);
}

void tree_pick(const struct tree_search *s, int32_t *ids, float *weights) {
    double max = s->leaves[0].score, sum = 0;
    for (int j = 1; j < s->k; j++) max = s->leaves[j].score > max ? s->leaves[j].score : max; /* a bias may reorder them */
    for (int j = 0; j < s->k; j++) sum += exp(s->leaves[j].score - max);
    for (int j = 0; j < s->k; j++) {
        ids[j] = s->leaves[j].id;
        weights[j] = (float)(exp(s->leaves[j].score - max) / sum);
    }
}
