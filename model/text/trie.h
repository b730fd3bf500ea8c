/* trie.h - texts in a tree of bytes, each with a number: the longest or every text that starts at a place. Immutable once
 * filled. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trie {                      /* edges by (node, byte), open addressing; node 0 is the root */
    uint64_t *edge;                /* node << 8 | byte, +1; 0: empty */
    uint32_t *to;
    uint32_t mask, nodes;
    int32_t *value;                /* [nodes] of the text that ends here, or -1 */
    bool first[256];               /* bytes that leave the root */
};
int  trie_open(struct trie *t, size_t bytes);   /* room for texts of so many bytes together; 0 or ERR_NOMEM */
void trie_close(struct trie *t);                /* also of a zeroed one */
/* s is not empty, value >= 0. 0, or ERR_EXISTS when s is there already (with replace: its value changes instead). */
int  trie_add(struct trie *t, const char *s, size_t len, int32_t value, bool replace);
/* One byte further from *node (start with 0). False: no text goes on like this. */
bool trie_step(const struct trie *t, uint32_t *node, unsigned char byte);
/* The value of the longest text at s, and its length; or -1. */
int32_t trie_longest(const struct trie *t, const char *s, size_t len, size_t *matched);
