/* subword.c - which kind a model is, and the calls passed on to it. */
#include "model/text/subword.h"

#include <stdlib.h>
#include <string.h>

#include "model/json_field.h"

struct subword_work {
    const struct subword *m;
    struct bpe_work *bpe;
    struct unigram_work unigram;
    struct text_buf text;
};

static const char *const where = "tokenizer.json: model";

/* Files of before 2020 do not say which model they have: its members do. */
static const char *type_of(const json_t *model, const char *type) {
    const json_t *vocab = json_object_get(model, "vocab");
    if (type) return type;
    if (json_object_get(model, "merges")) return "BPE";
    if (json_is_array(vocab)) return "Unigram";
    return json_object_get(model, "continuing_subword_prefix") ? "WordPiece" : "WordLevel";
}

int subword_read(const json_t *model, unsigned nul, struct subword *m, struct why *why) {
    struct text_span t;
    if (!json_is_object(model)) return fail(why, ERR_INVALID, "tokenizer.json: 'model' is missing");
    int rc = json_field_text(model, where, "type", &t, why);
    if (rc < 0) return rc;
    const char *type = type_of(model, t.s);
    if (!strcmp(type, "Unigram")) {
        m->kind = SUBWORD_UNIGRAM;
        return unigram_read(model, &m->vocab, &m->unigram, why);
    }
    bool bpe = !strcmp(type, "BPE"), pieces = !strcmp(type, "WordPiece");
    if (!bpe && !pieces && strcmp(type, "WordLevel"))
        return fail(why, ERR_UNSUPPORTED, "%s: type '%.60s' is not known; BPE, Unigram, WordPiece and WordLevel are", where,
                    type);
    const json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab)) return fail(why, ERR_INVALID, "%s: 'vocab' must be an object", where);
    rc = vocab_read(vocab, nul, &m->vocab, why);
    if (rc < 0) return rc;
    m->kind = bpe ? SUBWORD_BPE : SUBWORD_WORDPIECE;
    return bpe ? bpe_read(model, &m->vocab, &m->bpe, why) : wordpiece_read(model, pieces, &m->vocab, &m->wordpiece, why);
}

void subword_clear(struct subword *m) {
    bpe_clear(&m->bpe);
    unigram_clear(&m->unigram);
    wordpiece_clear(&m->wordpiece);
    vocab_clear(&m->vocab);
}

struct subword_work *subword_work_new(const struct subword *m, bool cache) {
    struct subword_work *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->m = m;
    if (m->kind == SUBWORD_BPE && !(w->bpe = bpe_work_new(&m->bpe, cache))) {
        free(w);
        return NULL;
    }
    return w;
}

void subword_work_free(struct subword_work *w) {
    if (!w) return;
    bpe_work_free(w->bpe);
    unigram_work_clear(&w->unigram);
    text_buf_clear(&w->text);
    free(w);
}

int subword_word(struct subword_work *w, const char *s, size_t len, int max, struct token_list *out) {
    switch (w->m->kind) {
    case SUBWORD_BPE: return bpe_word(w->bpe, s, len, max, out);
    case SUBWORD_UNIGRAM: return unigram_word(&w->m->unigram, &w->unigram, s, len, max, out);
    case SUBWORD_WORDPIECE: return wordpiece_word(&w->m->wordpiece, &w->text, s, len, max, out);
    }
    return 0;
}
