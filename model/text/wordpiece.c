/* wordpiece.c - greedy look-up. A piece is never longer than the vocabulary's longest token, so a long word costs no more per
 * byte than a short one. */
#include "model/text/wordpiece.h"

#include <stdlib.h>
#include <string.h>

#include "model/json_field.h"
#include "model/text/utf8.h"

enum { NONE = -1, NO_MEMORY = -2 };

static const char *const where = "tokenizer.json: model";

int wordpiece_read(const json_t *model, bool pieces, const struct vocab *vocab, struct wordpiece *p, struct why *why) {
    struct text_span unk, prefix = {"##", 2};
    p->vocab = vocab;
    p->max_chars = 100;
    int rc = json_field_text(model, where, "unk_token", &unk, why);
    if (rc == 0 && pieces && json_object_get(model, "continuing_subword_prefix"))
        rc = json_field_need_text(model, where, "continuing_subword_prefix", &prefix, why);
    if (rc == 0 && pieces && json_object_get(model, "max_input_chars_per_word"))
        rc = json_field_int(model, where, "max_input_chars_per_word", 0, INT32_MAX, &p->max_chars, why);
    if (rc < 0) return rc;
    p->unk = unk.s ? vocab_id(vocab, unk.s, unk.len) : vocab_id(vocab, pieces ? "[UNK]" : "<unk>", 5);
    if (p->unk < 0) p->unk = -2;
    if (!pieces) return 0;
    p->prefix = malloc(prefix.len + 1);
    if (!p->prefix) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    memcpy(p->prefix, prefix.s, prefix.len + 1);
    p->prefix_len = prefix.len;
    return 0;
}

void wordpiece_clear(struct wordpiece *p) {
    free(p->prefix);
    *p = (struct wordpiece){0};
}

static bool too_long(const struct wordpiece *p, const char *s, size_t len) {
    int64_t chars = 0;
    for (size_t i = 0; i < len && chars <= p->max_chars; i++) chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    return chars > p->max_chars;
}

/* The longest token at s[0..len), behind the prefix when `inner`. Returns the id and the bytes of text it takes; NONE,
 * NO_MEMORY. */
static int32_t longest(const struct wordpiece *p, struct text_buf *b, const char *s, size_t len, bool inner, size_t *taken) {
    size_t mark = inner ? p->prefix_len : 0, end = len, most = (size_t)p->vocab->longest;
    b->len = 0;
    if (mark > most) return NONE;
    if (end > most - mark) {
        end = most - mark;
        while (end > 0 && ((unsigned char)s[end] & 0xc0) == 0x80) end--;
    }
    if (text_buf_append(b, p->prefix, mark) < 0 || text_buf_append(b, s, end) < 0) return NO_MEMORY;
    for (; end > 0; end = utf8_back(s, end)) {
        int32_t id = vocab_id(p->vocab, b->data, mark + end);
        *taken = end;
        if (id >= 0) return id;
    }
    return NONE;
}

int wordpiece_word(const struct wordpiece *p, struct text_buf *scratch, const char *s, size_t len, int max,
                   struct token_list *out) {
    int start = out->len, rc = 0;
    int32_t id = NONE;
    if (!p->prefix) {
        id = vocab_id(p->vocab, s, len);
        if (id >= 0) return out->len >= max ? ERR_TOO_LARGE : token_list_add(out, id);
    } else if (!too_long(p, s, len)) {
        for (size_t at = 0, taken = 0; at < len && rc == 0; at += taken) {
            id = longest(p, scratch, s + at, len - at, at > 0, &taken);
            if (id == NO_MEMORY) return ERR_NOMEM;
            if (id < 0) break;
            rc = out->len >= max ? ERR_TOO_LARGE : token_list_add(out, id);
        }
        if (rc < 0 || id >= 0) return rc;
    }
    out->len = start;
    if (p->unk < 0) return ERR_INVALID;
    return out->len >= max ? ERR_TOO_LARGE : token_list_add(out, p->unk);
}
