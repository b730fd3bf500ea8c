/* text_buf.c - the two growing arrays that tokenizer.h hands out: text and token ids. Growth is by doubling; failure leaves the
 * contents as they were. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/text/tokenizer.h"
#include "model/text/vocab.h"

void text_buf_clear(struct text_buf *b) {
    free(b->data);
    *b = (struct text_buf){0};
}

int text_buf_append(struct text_buf *b, const char *s, size_t len) {
    if (len >= SIZE_MAX / 4 - b->len) return ERR_NOMEM;
    if (b->len + len + 1 > b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 64;
        while (cap < b->len + len + 1) cap *= 2;
        char *data = realloc(b->data, cap);
        if (!data) return ERR_NOMEM;
        b->data = data;
        b->cap = cap;
    }
    if (len) memcpy(b->data + b->len, s, len);
    b->len += len;
    b->data[b->len] = '\0';
    return 0;
}

void token_list_clear(struct token_list *l) {
    free(l->ids);
    *l = (struct token_list){0};
}

int token_list_add(struct token_list *l, int32_t id) {
    if (l->len == l->cap) {
        int cap = l->cap ? l->cap * 2 : 64;
        int32_t *ids = l->cap > INT32_MAX / 2 ? NULL : realloc(l->ids, (size_t)cap * sizeof *ids);
        if (!ids) return ERR_NOMEM;
        l->ids = ids;
        l->cap = cap;
    }
    l->ids[l->len++] = id;
    return 0;
}
