/* bpe.c - merging one word: repeatedly the pair of lowest rank, leftmost first among equals.
 *
 * Short words keep their symbols in a small array and look for the best pair by scanning it. Long ones (a client may send one
 * "word" of megabytes) use a linked list of symbols and a heap of candidate pairs ordered by (rank, position); an entry whose
 * pair has changed meanwhile is recognised when it comes up. Both give the same tokens.
 * Frequent words are remembered within one call, in a direct-mapped table: nothing here is shared between threads. */
#include "model/text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "model/json_field.h"
#include "model/text/utf8.h"

enum { SHORT_WORD = 40, CACHE_SLOTS = 4096, CACHE_TEXT = 23, CACHE_IDS = 9 };

struct symbol {
    int32_t id;         /* -1: merged into the one before */
    int32_t prev, next; /* -1: none */
};
struct parts { /* the two symbols that were last found to make a token; left -1: none were */
    int32_t left, right;
};
struct cached { /* 64 bytes */
    unsigned char len, n;
    char text[CACHE_TEXT + 3];
    int32_t ids[CACHE_IDS];
};
struct bpe_work {
    const struct bpe *b;
    int32_t *ids; /* the word as its first symbols, then as tokens */
    size_t ids_cap;
    struct symbol *sym; /* long words only */
    size_t sym_cap;
    uint64_t *heap; /* rank << 32 | position */
    size_t heap_len, heap_cap;
    struct cached *cache; /* [CACHE_SLOTS] or NULL */
    struct parts *parts;  /* [vocab->size] or NULL: no token is unused */
};

struct bpe_work *bpe_work_new(const struct bpe *b, bool cache) {
    struct bpe_work *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->b = b;
    if (cache) w->cache = calloc(CACHE_SLOTS, sizeof *w->cache); /* going without is only slower */
    if (!b->unused) return w;
    w->parts = malloc((size_t)b->vocab->size * sizeof *w->parts);
    if (w->parts) {
        memset(w->parts, 0xff, (size_t)b->vocab->size * sizeof *w->parts);
        return w;
    }
    bpe_work_free(w);
    return NULL;
}

void bpe_work_free(struct bpe_work *w) {
    if (!w) return;
    free(w->ids);
    free(w->sym);
    free(w->heap);
    free(w->cache);
    free(w->parts);
    free(w);
}

static const struct bpe_pair *find_pair(const struct bpe *b, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint32_t i = (uint32_t)hash_u64(key) & b->pair_mask;; i = (i + 1) & b->pair_mask) {
        if (b->pairs[i].key == key) return &b->pairs[i];
        if (b->pairs[i].key == ~(uint64_t)0) return NULL;
    }
}

/* The pair as something that may merge. Of an unused token the latest such pair is what it falls apart into, merged or not: so
 * pairs have to be asked for in the reference's order. */
static const struct bpe_pair *candidate(struct bpe_work *w, int32_t left, int32_t right) {
    const struct bpe_pair *p = find_pair(w->b, left, right);
    if (p && w->parts && w->b->unused[p->id]) w->parts[p->id] = (struct parts){left, right};
    return p;
}

/* The token of one character, marked as the model marks the inner characters and the last of a word. *text is what may fall
 * back to bytes: the character with its marks. */
static int32_t char_symbol(const struct bpe *b, char *marked, const char *s, size_t bytes, bool first, bool last,
                           struct text_span *text) {
    *text = (struct text_span){s, bytes};
    size_t before = first ? 0 : b->prefix_len, after = last ? b->suffix_len : 0;
    if (before || after) {
        if (before) memcpy(marked, b->prefix, before);
        memcpy(marked + before, s, bytes);
        if (after) memcpy(marked + before + bytes, b->suffix, after);
        *text = (struct text_span){marked, before + bytes + after};
    } else {
        uint32_t cp;
        utf8_next(s, &cp);
        if (cp < 0x180) return b->char_id[cp];
    }
    return vocab_id(b->vocab, text->s, text->len);
}

/* The bytes of an unknown character as tokens, when all of them have one. */
static bool fall_back(struct bpe_work *w, struct text_span t, int64_t *n) {
    const struct bpe *b = w->b;
    bool all = b->byte_fallback;
    for (size_t k = 0; k < t.len && all; k++) all = b->byte_id[(unsigned char)t.s[k]] >= 0;
    for (size_t k = 0; k < t.len && all; k++) w->ids[(*n)++] = b->byte_id[(unsigned char)t.s[k]];
    return all;
}

static int symbols_room(struct bpe_work *w, size_t len) {
    size_t n = (w->b->prefix_len + 1) * len + w->b->suffix_len + 1; /* bytes, when every character falls back */
    if (w->ids_cap >= n) return 0;
    int32_t *ids = realloc(w->ids, n * sizeof *ids);
    if (!ids) return ERR_NOMEM;
    w->ids = ids;
    w->ids_cap = n;
    return 0;
}

/* The word as one symbol per character; unknown characters as bytes or as the unknown token. Returns how many, or an error.
 * As in the reference, an unknown token stands where the next known character comes: bytes fallen back to go before it. */
static int64_t first_symbols(struct bpe_work *w, const char *s, size_t len) {
    const struct bpe *b = w->b;
    if (symbols_room(w, len) < 0) return ERR_NOMEM;
    int64_t n = 0;
    bool unknown = false; /* an unknown token is waiting */
    for (size_t i = 0; i < len;) {
        char marked[2 * BPE_MAX_MARK + 4];
        uint32_t cp;
        struct text_span text;
        size_t bytes = (size_t)utf8_next(s + i, &cp), whole = 0;
        int32_t id = b->atoms.edge ? trie_longest(&b->atoms, s + i, len - i, &whole) : -1;
        if (id >= 0) bytes = whole;
        else id = char_symbol(b, marked, s + i, bytes, i == 0, i + bytes == len, &text);
        if (id < 0) id = bpe_lone(b, cp);
        if (id >= 0) {
            if (unknown) w->ids[n++] = b->unk;
            unknown = false;
            w->ids[n++] = id;
        } else if (!fall_back(w, text, &n)) {
            if (b->unk == -2) return ERR_INVALID;
            if (b->unk >= 0) {
                if (unknown && !b->fuse_unk) w->ids[n++] = b->unk;
                unknown = true;
            }
        }
        i += bytes;
    }
    if (unknown) w->ids[n++] = b->unk;
    return n;
}

static int merge_short(struct bpe_work *w, int n) {
    int32_t *ids = w->ids;
    const struct bpe_pair *pair[SHORT_WORD]; /* of ids[i], ids[i + 1] */
    for (int i = 0; i + 1 < n; i++) pair[i] = candidate(w, ids[i], ids[i + 1]);
    while (n > 1) {
        int best = -1;
        for (int i = 0; i + 1 < n; i++)
            if (pair[i] && (best < 0 || pair[i]->rank < pair[best]->rank)) best = i;
        if (best < 0) break;
        ids[best] = pair[best]->id;
        n--;
        for (int i = best + 1; i < n; i++) ids[i] = ids[i + 1];
        for (int i = best + 1; i + 1 < n; i++) pair[i] = pair[i + 1];
        if (best > 0) pair[best - 1] = candidate(w, ids[best - 1], ids[best]);
        if (best + 1 < n) pair[best] = candidate(w, ids[best], ids[best + 1]);
    }
    return n;
}

static void sift_down(uint64_t *h, size_t n, size_t i) { /* four children: fewer cache lines per level */
    uint64_t v = h[i];
    for (;;) {
        size_t c = 4 * i + 1, best = c;
        if (c >= n) break;
        for (size_t k = c + 1; k < c + 4 && k < n; k++)
            if (h[k] < h[best]) best = k;
        if (h[best] >= v) break;
        h[i] = h[best];
        i = best;
    }
    h[i] = v;
}

static int heap_push(struct bpe_work *w, uint64_t v) {
    if (w->heap_len == w->heap_cap) {
        size_t cap = w->heap_cap * 2;
        uint64_t *h = realloc(w->heap, cap * sizeof *h);
        if (!h) return ERR_NOMEM;
        w->heap = h;
        w->heap_cap = cap;
    }
    size_t i = w->heap_len++;
    for (size_t up; i > 0 && w->heap[up = (i - 1) / 4] > v; i = up) w->heap[i] = w->heap[up];
    w->heap[i] = v;
    return 0;
}

static int push_pair(struct bpe_work *w, int32_t at) {
    const struct symbol *s = &w->sym[at];
    const struct bpe_pair *p = candidate(w, s->id, w->sym[s->next].id);
    return p ? heap_push(w, (uint64_t)(uint32_t)p->rank << 32 | (uint32_t)at) : 0;
}

static int long_room(struct bpe_work *w, size_t n) {
    if (w->sym_cap < n) {
        struct symbol *sym = realloc(w->sym, n * sizeof *sym);
        if (!sym) return ERR_NOMEM;
        w->sym = sym;
        w->sym_cap = n;
    }
    if (w->heap_cap < n) {
        uint64_t *heap = realloc(w->heap, n * sizeof *heap);
        if (!heap) return ERR_NOMEM;
        w->heap = heap;
        w->heap_cap = n;
    }
    return 0;
}

static int64_t merge_long(struct bpe_work *w, int64_t n) {
    const struct bpe *b = w->b;
    if (long_room(w, (size_t)n) < 0) return ERR_NOMEM;
    struct symbol *sym = w->sym;
    w->heap_len = 0;
    for (int32_t i = 0; i < n; i++) sym[i] = (struct symbol){w->ids[i], i - 1, i + 1 < n ? i + 1 : -1};
    for (int32_t i = 0; i + 1 < n; i++) {
        const struct bpe_pair *p = candidate(w, w->ids[i], w->ids[i + 1]);
        if (p) w->heap[w->heap_len++] = (uint64_t)(uint32_t)p->rank << 32 | (uint32_t)i;
    }
    for (size_t i = w->heap_len / 4 + 1; i-- > 0;)
        if (i < w->heap_len) sift_down(w->heap, w->heap_len, i);
    while (w->heap_len) {
        uint64_t top = w->heap[0];
        w->heap[0] = w->heap[--w->heap_len];
        if (w->heap_len) sift_down(w->heap, w->heap_len, 0);
        int32_t at = (int32_t)(top & 0xffffffff), rank = (int32_t)(top >> 32);
        struct symbol *left = &sym[at];
        if (left->id < 0 || left->next < 0) continue;
        struct symbol *right = &sym[left->next];
        const struct bpe_pair *p = find_pair(b, left->id, right->id);
        if (!p || (b->merged ? p->id != b->merged[rank] : p->rank != rank)) continue; /* one of the two has changed since */
        left->id = p->id;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) sym[left->next].prev = at;
        if (left->prev >= 0 && push_pair(w, left->prev) < 0) return ERR_NOMEM;
        if (left->next >= 0 && push_pair(w, at) < 0) return ERR_NOMEM;
    }
    int64_t out = 0;
    for (int32_t i = 0; i >= 0; i = sym[i].next) w->ids[out++] = sym[i].id;
    return out;
}

/* Symbols into tokens: unused tokens fall apart, unused and lone characters become bytes or unknown. What is not
 * done yet stands at the buffer's end; every symbol has a byte of the word, so what is done never reaches it. */
static int64_t finish(struct bpe_work *w, int64_t n) {
    const struct bpe *b = w->b;
    if (!b->n_lone && !w->parts) return n;
    int64_t end = (int64_t)w->ids_cap, at = end - n, out = 0;
    memmove(w->ids + at, w->ids, (size_t)n * sizeof *w->ids);
    while (at < end) {
        int32_t id = w->ids[at++];
        char s[4];
        struct text_span unknown = {0};
        if (id >= b->vocab->size) {
            unknown = (struct text_span){s, (size_t)utf8_write(b->lone[id - b->vocab->size], s)};
        } else if (w->parts && b->unused[id] && w->parts[id].left >= 0) {
            w->ids[--at] = w->parts[id].right;
            w->ids[--at] = w->parts[id].left;
            continue;
        } else if (w->parts && b->unused[id]) { /* a character */
            unknown = (struct text_span){b->vocab->tokens[id].s, b->vocab->tokens[id].len};
        }
        if (unknown.len) {
            if (fall_back(w, unknown, &out)) continue;
            if (b->unk < 0) return ERR_INVALID;
            id = b->unk;
        }
        if (id == b->unk && b->fuse_unk && out && w->ids[out - 1] == id) continue;
        w->ids[out++] = id;
    }
    return out;
}

static int emit(const int32_t *ids, int64_t n, int max, struct token_list *out) {
    if (n > max - out->len) return ERR_TOO_LARGE;
    for (int64_t i = 0; i < n; i++)
        if (token_list_add(out, ids[i]) < 0) return ERR_NOMEM;
    return 0;
}

int bpe_word(struct bpe_work *w, const char *s, size_t len, int max, struct token_list *out) {
    const struct bpe *b = w->b;
    if (len > INT32_MAX) return ERR_TOO_LARGE;
    if (b->ignore_merges) {
        int32_t id = vocab_id(b->vocab, s, len);
        if (id >= 0) return emit(&id, 1, max, out);
    }
    struct cached *c = NULL;
    if (w->cache && len <= CACHE_TEXT) {
        c = &w->cache[hash_bytes(s, len) % CACHE_SLOTS];
        if (c->len == len && !memcmp(c->text, s, len)) return emit(c->ids, c->n, max, out);
    }
    int64_t n = first_symbols(w, s, len);
    if (n < 0) return (int)n;
    if (n / b->vocab->longest > max - out->len) return ERR_TOO_LARGE; /* a token holds at most as many symbols as bytes */
    n = n <= SHORT_WORD ? merge_short(w, (int)n) : merge_long(w, n);
    if (n >= 0) n = finish(w, n);
    if (n < 0) return (int)n;
    if (c && n <= CACHE_IDS) {
        c->len = (unsigned char)len;
        c->n = (unsigned char)n;
        memcpy(c->text, s, len);
        memcpy(c->ids, w->ids, (size_t)n * sizeof *c->ids);
    }
    return emit(w->ids, n, max, out);
}
