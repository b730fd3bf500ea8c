/* trie.c - one flat table of edges for the whole tree. */
#include "model/text/trie.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/status.h"

static uint32_t edge_slot(const struct trie *t, uint32_t node, unsigned char byte) {
    uint64_t key = ((uint64_t)node << 8 | byte) + 1;
    uint32_t i = (uint32_t)hash_u64(key) & t->mask;
    while (t->edge[i] && t->edge[i] != key) i = (i + 1) & t->mask;
    return i;
}

int trie_open(struct trie *t, size_t bytes) {
    uint32_t size = 64;
    if (bytes > UINT32_MAX / 4) return ERR_NOMEM;
    while (size < 2 * bytes) size *= 2;
    t->mask = size - 1;
    t->edge = calloc(size, sizeof *t->edge);
    t->to = calloc(size, sizeof *t->to);
    t->value = malloc((bytes + 1) * sizeof *t->value);
    if (!t->edge || !t->to || !t->value) return ERR_NOMEM;
    memset(t->value, 0xff, (bytes + 1) * sizeof *t->value);
    t->nodes = 1;
    return 0;
}

void trie_close(struct trie *t) {
    free(t->edge);
    free(t->to);
    free(t->value);
    *t = (struct trie){0};
}

int trie_add(struct trie *t, const char *s, size_t len, int32_t value, bool replace) {
    uint32_t node = 0;
    for (size_t i = 0; i < len; i++) {
        uint32_t slot = edge_slot(t, node, (unsigned char)s[i]);
        if (!t->edge[slot]) {
            t->edge[slot] = ((uint64_t)node << 8 | (unsigned char)s[i]) + 1;
            t->to[slot] = t->nodes++;
        }
        node = t->to[slot];
    }
    t->first[(unsigned char)s[0]] = true;
    if (t->value[node] >= 0 && !replace) return ERR_EXISTS;
    t->value[node] = value;
    return 0;
}

bool trie_step(const struct trie *t, uint32_t *node, unsigned char byte) {
    if (!*node && !t->first[byte]) return false;
    uint32_t slot = edge_slot(t, *node, byte);
    if (!t->edge[slot]) return false;
    *node = t->to[slot];
    return true;
}

int32_t trie_longest(const struct trie *t, const char *s, size_t len, size_t *matched) {
    int32_t best = -1;
    uint32_t node = 0;
    for (size_t i = 0; i < len && trie_step(t, &node, (unsigned char)s[i]); i++) {
        if (t->value[node] < 0) continue;
        best = t->value[node];
        *matched = i + 1;
    }
    return best;
}
