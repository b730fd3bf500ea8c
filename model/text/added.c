/* added.c - reading the list, building the tries, and cutting text.
 *
 * Ids: the reference ignores the ids of the file and gives each token the id its text has in the vocabulary, or the next after
 * the vocabulary's size. A file that says otherwise would be read differently by different programs, so it is refused. */
#include "model/text/added.h"

#include <stdlib.h>
#include <string.h>

#include "model/json_field.h"
#include "model/text/unicode.h"
#include "model/text/utf8.h"

static const char *const where = "tokenizer.json: added_tokens";

static int read_token(const json_t *spec, struct added_token *a, int64_t *id, struct why *why) {
    struct text_span t;
    int rc = json_is_object(spec) ? 0 : fail(why, ERR_INVALID, "%s: every entry must be an object", where);
    if (rc == 0) rc = json_field_need_text(spec, where, "content", &t, why);
    if (rc == 0) rc = json_field_int(spec, where, "id", 0, VOCAB_MAX_ID - 1, id, why);
    if (rc == 0) rc = json_field_bool(spec, where, "special", false, &a->special, why);
    if (rc == 0) rc = json_field_bool(spec, where, "normalized", true, &a->normalized, why);
    if (rc == 0) rc = json_field_bool(spec, where, "single_word", false, &a->single_word, why);
    if (rc == 0) rc = json_field_bool(spec, where, "lstrip", false, &a->lstrip, why);
    if (rc == 0) rc = json_field_bool(spec, where, "rstrip", false, &a->rstrip, why);
    if (rc < 0) return rc;
    if (t.len > ADDED_MAX_BYTES)
        return fail(why, ERR_TOO_LARGE, "%s: '%.60s...' has more than %d bytes", where, t.s, ADDED_MAX_BYTES);
    a->content = malloc(t.len + 1);
    if (!a->content) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    memcpy(a->content, t.s, t.len + 1);
    a->content_len = t.len;
    return 0;
}

static int find_normal_form(struct added_token *a, const struct normalizer *n, struct normal_work *w, struct why *why) {
    int rc = normalizer_run(n, w, a->content, a->content_len, 0);
    if (rc < 0) return fail(why, rc, "%s: cannot normalise '%.60s'", where, a->content);
    if (w->text.len == a->content_len && !memcmp(w->text.data, a->content, a->content_len)) return 0;
    if (!w->text.len) return fail(why, ERR_INVALID, "%s: '%.60s' normalises to nothing", where, a->content);
    a->normal = malloc(w->text.len + 1);
    if (!a->normal) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    memcpy(a->normal, w->text.data, w->text.len);
    a->normal[w->text.len] = '\0';
    a->normal_len = w->text.len;
    return 0;
}

static int by_id(const void *x, const void *y) {
    const struct added_token *a = x, *b = y;
    return a->id < b->id ? -1 : a->id > b->id;
}

static int build_tries(struct added_set *s, struct why *why) {
    size_t raw = 0, normal = 0;
    for (int i = 0; i < s->n; i++) {
        const struct added_token *a = &s->tokens[i];
        *(a->normalized ? &normal : &raw) += a->normal ? a->normal_len : a->content_len;
    }
    if (trie_open(&s->raw, raw) < 0 || trie_open(&s->normal, normal) < 0)
        return fail(why, ERR_NOMEM, "%s: out of memory", where);
    bool words = false;
    for (int i = 0; i < s->n; i++) {
        const struct added_token *a = &s->tokens[i];
        words |= a->single_word;
        int rc = trie_add(a->normalized ? &s->normal : &s->raw, a->normal ? a->normal : a->content,
                          a->normal ? a->normal_len : a->content_len, i, false);
        if (rc < 0)
            return fail(why, ERR_INVALID, "%s: '%.60s' is listed twice, or normalises to the same as another", where,
                        a->content);
    }
    static const char word[] = "[\\w\\u200c\\u200d]";
    return words ? pattern_open(word, sizeof word - 1, &s->word, why) : 0;
}

int added_read(const json_t *list, bool keep_ids, const struct vocab *v, const struct normalizer *n, struct added_set *out,
               struct why *why) {
    if (list && !json_is_null(list) && !json_is_array(list)) return fail(why, ERR_INVALID, "%s must be a list", where);
    size_t count = json_array_size(list), i;
    out->tokens = calloc(count + 1, sizeof *out->tokens);
    struct normal_work *w = calloc(1, sizeof *w);
    int rc = out->tokens && w && count <= VOCAB_MAX_ID ? 0 : fail(why, ERR_NOMEM, "%s: out of memory", where);
    int32_t next = v->count;
    for (i = 0; i < count && rc == 0; i++) {
        struct added_token *a = &out->tokens[out->n];
        int64_t id = 0;
        rc = read_token(json_array_get(list, i), a, &id, why);
        out->n++; /* clear frees it in any case */
        if (rc < 0) break;
        if (!a->content_len) { /* can never be found: the reference ignores it */
            free(a->content);
            *a = (struct added_token){0};
            out->n--;
            continue;
        }
        a->id = vocab_id(v, a->content, a->content_len);
        if (keep_ids) a->id = (int32_t)id;
        if (a->id < 0) a->id = next++;
        if (a->id != id)
            rc = fail(why, ERR_INVALID, "%s: '%.60s' has id %lld in the list, but loads as %d: its text is %s", where,
                      a->content, (long long)id, a->id,
                      a->id < v->count ? "in the vocabulary" : "not in the vocabulary, whose size gives the id");
        else if (!keep_ids && id < v->size && vocab_id(v, a->content, a->content_len) < 0 && v->tokens[id].s)
            rc = fail(why, ERR_INVALID, "%s: '%.60s' takes id %lld from '%.60s'", where, a->content, (long long)id,
                      v->tokens[id].s);
        if (rc == 0 && a->normalized) rc = find_normal_form(a, n, w, why);
    }
    if (w) normal_work_clear(w);
    free(w);
    if (rc < 0) return rc;
    qsort(out->tokens, (size_t)out->n, sizeof *out->tokens, by_id);
    return build_tries(out, why);
}

void added_clear(struct added_set *a) {
    for (int i = 0; i < a->n; i++) {
        free(a->tokens[i].content);
        free(a->tokens[i].normal);
    }
    free(a->tokens);
    trie_close(&a->raw);
    trie_close(&a->normal);
    pattern_close(a->word);
    *a = (struct added_set){0};
}

const struct added_token *added_by_id(const struct added_set *a, int32_t id) {
    int lo = 0, hi = a->n;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (a->tokens[mid].id < id) lo = mid + 1;
        else hi = mid;
    }
    return lo < a->n && a->tokens[lo].id == id ? &a->tokens[lo] : NULL;
}

const struct added_token *added_by_text(const struct added_set *a, const char *s, size_t len) {
    for (int i = 0; i < a->n; i++)
        if (a->tokens[i].content_len == len && !memcmp(a->tokens[i].content, s, len)) return &a->tokens[i];
    return NULL;
}

static int word_at(const struct added_cut *c, const char *s) { /* is the character at s part of a word? */
    uint32_t cp;
    size_t start, end;
    struct pattern_scan scan = {.pattern = c->set->word, .scratch = c->scratch, .text = s, .len = (size_t)utf8_next(s, &cp)};
    return pattern_next(&scan, &start, &end);
}

/* 1: neither neighbour of [from, to) is part of a word; 0; or an error. */
static int stands_alone(const struct added_cut *c, const char *s, size_t len, size_t from, size_t to) {
    int before = from ? word_at(c, s + utf8_back(s, from)) : 0;
    int after = before == 0 && to < len ? word_at(c, s + to) : 0;
    if (before < 0 || after < 0) return before < 0 ? before : after;
    return !before && !after;
}

static size_t space_before(const char *s, size_t at) {
    while (at > 0) {
        size_t back = utf8_back(s, at);
        uint32_t cp;
        utf8_next(s + back, &cp);
        if (!unicode_is_space(cp)) break;
        at = back;
    }
    return at;
}

static size_t space_after(const char *s, size_t len, size_t at) {
    uint32_t cp;
    for (int n; at < len && (n = utf8_next(s + at, &cp), unicode_is_space(cp));) at += (size_t)n;
    return at;
}

int added_cut_run(const struct added_cut *c, const char *s, size_t len) {
    const struct trie *t = c->normal ? &c->set->normal : &c->set->raw;
    size_t done = 0; /* handed out up to here; stripping may have gone beyond the search position */
    for (size_t at = 0, matched = 0; at < len;) {
        int32_t hit = t->first[(unsigned char)s[at]] ? trie_longest(t, s + at, len - at, &matched) : -1;
        if (hit < 0) {
            at++;
            continue;
        }
        const struct added_token *a = &c->set->tokens[hit];
        size_t from = at, to = at + matched;
        at = to;
        if (a->special && !c->special) continue;
        if (a->single_word) {
            int rc = stands_alone(c, s, len, from, to);
            if (rc < 0) return rc;
            if (rc == 0) continue;
        }
        if (a->lstrip) {
            from = space_before(s, from);
            if (from < done) from = done;
        }
        if (a->rstrip) to = space_after(s, len, to);
        int rc = done < from ? c->piece(c->user, s + done, from - done, done, NULL) : 0;
        if (rc == 0 && from < to)
            rc = c->piece(c->user, s + from, to - from, from, a); /* else stripped away by the one before */
        if (rc < 0) return rc;
        done = to;
    }
    return done < len ? c->piece(c->user, s + done, len - done, done, NULL) : 0;
}
