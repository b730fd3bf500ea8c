/* tokenizer.c - the parts put together: read once, then encode.
 *
 * Encoding: bytes -> well-formed UTF-8 -> cut at added tokens of the raw text -> normalise each piece -> cut at added tokens of
 * the normalised text -> words -> merges; then the post-processor's tokens around it. Everything runs in order and depth first,
 * so the work stops as soon as the limit is passed. The parts are immutable; each call has its own work structs.
 * tokenizer.json's "truncation" and "padding" are training conveniences and are ignored: serving never cuts a prompt
 * silently. */
#include "model/text/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "model/text/added.h"
#include "model/text/decoder.h"
#include "model/json_field.h"
#include "model/json_read.h"
#include "model/text/normalize.h"
#include "model/text/pretokenize.h"
#include "model/text/subword.h"
#include "model/text/tokenizer_parts.h"
#include "model/text/utf8.h"

enum { MAX_FILE_BYTES = 256 << 20, MAX_AROUND = 16, CACHE_FROM_BYTES = 2048 };

struct tokenizer {
    struct normalizer normalizer;
    struct pretokenizer pretokenizer;
    struct subword model;
    struct added_set added;
    struct decoder decoder;
    struct slice_limits limits; /* of the text between added tokens; {0}: it stays whole */
    int32_t before[MAX_AROUND], after[MAX_AROUND]; /* what the post-processor puts around a text */
    int n_before, n_after;
};

/* ---- the post-processor ---- */

static int put_around(struct tokenizer *t, bool after, int64_t id, struct why *why) {
    int *n = after ? &t->n_after : &t->n_before;
    if (*n == MAX_AROUND)
        return fail(why, ERR_UNSUPPORTED, "tokenizer.json: post_processor adds more than %d tokens", MAX_AROUND);
    (after ? t->after : t->before)[(*n)++] = (int32_t)id;
    return 0;
}

/* TemplateProcessing's "single": special tokens around one $A. */
static int read_template(const json_t *spec, struct tokenizer *t, struct why *why) {
    static const char *const where = "tokenizer.json: post_processor";
    const json_t *single = json_object_get(spec, "single"), *specials = json_object_get(spec, "special_tokens"), *v;
    bool after = false;
    size_t i, k;
    if (!json_is_array(single)) return fail(why, ERR_INVALID, "%s: TemplateProcessing needs the list 'single'", where);
    json_array_foreach(single, i, v) {
        const json_t *sequence = json_object_get(v, "Sequence"), *special = json_object_get(v, "SpecialToken");
        struct text_span id;
        int rc = sequence || special
                     ? json_field_need_text(sequence ? sequence : special, where, "id", &id, why)
                     : fail(why, ERR_INVALID, "%s: an entry of 'single' is neither Sequence nor SpecialToken", where);
        if (rc < 0) return rc;
        if (sequence) {
            if (strcmp(id.s, "A") || after)
                return fail(why, ERR_UNSUPPORTED, "%s: 'single' must hold the sequence A once", where);
            after = true;
            continue;
        }
        const json_t *ids = json_object_get(json_object_get(specials, id.s), "ids"), *one;
        if (!json_is_array(ids)) return fail(why, ERR_INVALID, "%s: special token '%.60s' has no ids", where, id.s);
        json_array_foreach(ids, k, one) {
            if (!json_is_integer(one) || json_integer_value(one) < 0 || json_integer_value(one) >= VOCAB_MAX_ID)
                return fail(why, ERR_INVALID, "%s: special token '%.60s' has an id out of range", where, id.s);
            rc = put_around(t, after, json_integer_value(one), why);
            if (rc < 0) return rc;
        }
    }
    return after ? 0 : fail(why, ERR_UNSUPPORTED, "%s: 'single' must hold the sequence A once", where);
}

/* BertProcessing, RobertaProcessing: "cls" and "sep", each [text, id]. */
static int read_cls_sep(const json_t *spec, struct tokenizer *t, struct why *why) {
    for (int after = 0; after < 2; after++) {
        const json_t *id = json_array_get(json_object_get(spec, after ? "sep" : "cls"), 1);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= VOCAB_MAX_ID)
            return fail(why, ERR_INVALID, "tokenizer.json: post_processor: '%s' must be [text, id]", after ? "sep" : "cls");
        int rc = put_around(t, after, json_integer_value(id), why);
        if (rc < 0) return rc;
    }
    return 0;
}

static int read_post(const json_t *spec, int depth, struct tokenizer *t, struct why *why) {
    static const char *const where = "tokenizer.json: post_processor";
    struct text_span type;
    if (!spec || json_is_null(spec)) return 0;
    if (depth > PIPELINE_MAX_NESTING)
        return fail(why, ERR_INVALID, "%s: sequences nest deeper than %d", where, PIPELINE_MAX_NESTING);
    if (!json_is_object(spec)) return fail(why, ERR_INVALID, "%s: every stage must be an object", where);
    int rc = json_field_need_text(spec, where, "type", &type, why);
    if (rc < 0) return rc;
    if (!strcmp(type.s, "Sequence")) {
        const json_t *list = json_object_get(spec, "processors"), *v;
        if (!json_is_array(list)) return fail(why, ERR_INVALID, "%s: a Sequence needs the list 'processors'", where);
        size_t i;
        json_array_foreach(list, i, v) {
            rc = read_post(v, depth + 1, t, why);
            if (rc < 0) return rc;
        }
        return 0;
    }
    if (!strcmp(type.s, "ByteLevel")) return 0; /* offsets only */
    if (t->n_before || t->n_after) return fail(why, ERR_UNSUPPORTED, "%s: more than one stage adds tokens", where);
    if (!strcmp(type.s, "TemplateProcessing")) return read_template(spec, t, why);
    if (!strcmp(type.s, "BertProcessing") || !strcmp(type.s, "RobertaProcessing")) return read_cls_sep(spec, t, why);
    return fail(why, ERR_UNSUPPORTED, "%s: type '%.60s' is not known", where, type.s);
}

/* ---- reading ---- */

/* jansson takes no NUL in a key, but a vocabulary may well have the token "\u0000". Such escapes in keys are changed to a
 * noncharacter that occurs nowhere else in the text, which is returned, or 0 when there was nothing to do. */
static unsigned replace_nul_keys(char *json, size_t len) {
    static const char nul[] = "\\u0000";
    if (!memmem(json, len, nul, 6)) return 0;
    char digits[8] = "";
    unsigned stand_in = 0xfdd0;
    for (; stand_in < 0xfdf0; stand_in++) {
        char utf8[4], *at = json;
        snprintf(digits, sizeof digits, "%04x", stand_in);
        bool taken = memmem(json, len, utf8, (size_t)utf8_write(stand_in, utf8)) != NULL;
        for (; !taken && (at = memmem(at, len - (size_t)(at - json), "\\u", 2)); at += 2)
            taken = !strncasecmp(at + 2, digits, 4);
        if (!taken) break;
    }
    for (size_t i = 0, start; i < len && stand_in < 0xfdf0; i++) {
        if (json[i] != '"') continue;
        for (start = ++i; i < len && json[i] != '"'; i++) i += json[i] == '\\';
        size_t after = i + 1;
        while (after < len && strchr(" \t\r\n", json[after])) after++;
        if (after >= len || json[after] != ':') continue;
        for (size_t k = start; k + 6 <= i; k++) {
            if (json[k] != '\\') continue;
            if (!memcmp(json + k, nul, 6)) memcpy(json + k + 2, digits, 4);
            k++;
        }
    }
    return stand_in < 0xfdf0 ? stand_in : 0;
}

static int read_rest(const json_t *root, bool keep_ids, struct tokenizer *t, struct why *why) {
    int rc = pretokenizer_read(json_object_get(root, "pre_tokenizer"), &t->pretokenizer, why);
    if (rc == 0)
        rc = added_read(json_object_get(root, "added_tokens"), keep_ids, &t->model.vocab, &t->normalizer, &t->added, why);
    if (rc == 0) rc = decoder_read(json_object_get(root, "decoder"), &t->decoder, why);
    if (rc == 0) rc = read_post(json_object_get(root, "post_processor"), 1, t, why);
    return rc;
}

static int read_all(json_t *root, unsigned nul, const struct tokenizer_hints *h, struct tokenizer *t, struct why *why) {
    if (!json_is_object(root)) return fail(why, ERR_INVALID, "tokenizer.json: not an object");
    int rc = subword_read(json_object_get(root, "model"), nul, &t->model, why);
    if (rc == 0) rc = normalizer_read(json_object_get(root, "normalizer"), &t->normalizer, why);
    if (rc == 0) rc = tokenizer_add_named(root, &t->model.vocab, h, why);
    return rc < 0 ? rc : read_rest(root, false, t, why);
}

static int parse(const char *json, size_t len, const struct tokenizer_hints *h, struct tokenizer **out, struct why *why) {
    json_error_t e;
    char *copy = malloc(len + 1);
    if (!copy) return fail(why, ERR_NOMEM, "tokenizer.json: out of memory");
    memcpy(copy, json, len);
    copy[len] = '\0';
    unsigned nul = replace_nul_keys(copy, len);
    json_t *root = json_loadb(copy, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    free(copy);
    if (!root) return fail(why, ERR_INVALID, "tokenizer.json: line %d: %s", e.line, e.text);
    struct tokenizer *t = calloc(1, sizeof *t);
    int rc = t ? read_all(root, nul, h, t, why) : fail(why, ERR_NOMEM, "tokenizer.json: out of memory");
    json_decref(root);
    if (rc < 0) {
        tokenizer_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

int tokenizer_parse(const char *json, size_t len, struct tokenizer **out, struct why *why) {
    return parse(json, len, &(struct tokenizer_hints){0}, out, why);
}

/* The model's parts point at its vocabulary, which moves with it. */
static void move_model(struct subword *to, struct subword *from) {
    *to = *from;
    *from = (struct subword){0};
    to->bpe.vocab = to->unigram.vocab = to->wordpiece.vocab = &to->vocab;
}

int tokenizer_assemble(struct subword *model, struct normalizer *normalizer, const json_t *rest, struct slice_limits limits,
                       struct tokenizer **out, struct why *why) {
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return fail(why, ERR_NOMEM, "out of memory reading a tokenizer");
    move_model(&t->model, model);
    t->normalizer = *normalizer;
    t->limits = limits;
    *normalizer = (struct normalizer){0};
    int rc = read_rest(rest, true, t, why);
    if (rc < 0) tokenizer_close(t);
    else *out = t;
    return rc;
}

int tokenizer_open(const char *dir, struct tokenizer **out, struct why *why) {
    char *text, path[4096];
    size_t len;
    if (snprintf(path, sizeof path, "%s/tokenizer.json", dir) >= (int)sizeof path)
        return fail(why, ERR_INVALID, "%.200s: path too long", dir);
    int rc = json_read_bytes(path, MAX_FILE_BYTES, &text, &len, why);
    if (rc == ERR_NOT_FOUND) {
        rc = tokenizer_open_files(dir, out, why);
        return rc < 0 && rc != ERR_NOT_FOUND ? fail_in(why, rc, "%.200s", dir) : rc;
    }
    if (rc < 0) return rc;
    struct tokenizer_hints hints = {0};
    rc = tokenizer_hints_open(dir, &hints, why);
    if (rc == 0) rc = parse(text, len, &hints, out, why);
    tokenizer_hints_clear(&hints);
    free(text);
    return rc < 0 ? fail_in(why, rc, "%.200s", dir) : 0;
}

void tokenizer_close(struct tokenizer *t) {
    if (!t) return;
    normalizer_clear(&t->normalizer);
    pretokenizer_clear(&t->pretokenizer);
    subword_clear(&t->model);
    added_clear(&t->added);
    decoder_clear(&t->decoder);
    free(t);
}

/* ---- questions ---- */

int tokenizer_vocab(const struct tokenizer *t) {
    int size = t->model.vocab.size;
    if (t->added.n && t->added.tokens[t->added.n - 1].id >= size) size = t->added.tokens[t->added.n - 1].id + 1;
    return size;
}

int32_t tokenizer_id(const struct tokenizer *t, const char *token) {
    const struct added_token *a = added_by_text(&t->added, token, strlen(token));
    return a ? a->id : vocab_id(&t->model.vocab, token, strlen(token));
}

const char *tokenizer_token(const struct tokenizer *t, int32_t id, size_t *len) {
    const struct added_token *a = added_by_id(&t->added, id);
    if (a) {
        *len = a->content_len;
        return a->content;
    }
    if (id < 0 || id >= t->model.vocab.size || !t->model.vocab.tokens[id].s) return NULL;
    *len = t->model.vocab.tokens[id].len;
    return t->model.vocab.tokens[id].s;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id) {
    const struct added_token *a = added_by_id(&t->added, id);
    return a && a->special;
}

const char *tokenizer_decoded(const struct tokenizer *t, int32_t id, bool skip_special, size_t *len) {
    const struct added_token *a = added_by_id(&t->added, id);
    if (a && a->normal) { /* decoders undo the normal form; the reference then no longer sees that it is special */
        *len = a->normal_len;
        return a->normal;
    }
    const char *text = tokenizer_token(t, id, len);
    if (!skip_special || !text) return text;
    if (!a) { /* a text may be listed twice (Unigram): being special goes by the text */
        int32_t same = vocab_id(&t->model.vocab, text, *len);
        a = same == id ? NULL : added_by_id(&t->added, same);
    }
    return a && a->special ? NULL : text;
}

const struct decoder *tokenizer_decoder(const struct tokenizer *t) { return &t->decoder; }

/* ---- encoding ---- */

struct encoding {
    const struct tokenizer *t;
    struct token_list *out;
    int max; /* of out->len */
    bool special;
    struct normal_work normal;
    struct pre_work pre;
    struct subword_work *words;
    struct pattern_scratch word;
};

static int on_word(void *user, const char *s, size_t len) {
    struct encoding *e = user;
    return subword_word(e->words, s, len, e->max, e->out);
}

static int add_token(struct encoding *e, int32_t id) {
    return e->out->len >= e->max ? ERR_TOO_LARGE : token_list_add(e->out, id);
}

static int on_normal_piece(void *user, const char *s, size_t len, size_t at, const struct added_token *token) {
    struct encoding *e = user;
    if (token) return add_token(e, token->id);
    size_t origin = e->normal.origin > at ? e->normal.origin - at : 0;
    if (!e->t->limits.chars) return pretokenizer_run(&e->t->pretokenizer, &e->pre, s, len, origin < len ? origin : len);
    struct slices cut = {.limits = e->t->limits, .s = s, .len = len};
    int rc = 0;
    while (rc == 0 && slices_next(&cut, &s, &len)) rc = pretokenizer_run(&e->t->pretokenizer, &e->pre, s, len, 0);
    return rc;
}

static int on_raw_piece(void *user, const char *s, size_t len, size_t at, const struct added_token *token) {
    struct encoding *e = user;
    if (token) return add_token(e, token->id);
    uint32_t cp;
    int rc = normalizer_run(&e->t->normalizer, &e->normal, s, len, at == 0 && len ? (size_t)utf8_next(s, &cp) : 0);
    struct added_cut cut = {
        .set = &e->t->added, .normal = true, .special = e->special, .scratch = &e->word, .piece = on_normal_piece, .user = e};
    return rc < 0 ? rc : added_cut_run(&cut, e->normal.text.data, e->normal.text.len);
}

static int encode(struct encoding *e, const char *text, size_t len, bool add_special) {
    const struct tokenizer *t = e->t;
    int after = add_special ? t->n_after : 0, rc = 0;
    if (e->max - e->out->len < after) return ERR_TOO_LARGE;
    e->max -= after;
    for (int i = 0; add_special && i < t->n_before && rc == 0; i++) rc = add_token(e, t->before[i]);
    struct added_cut cut = {.set = &t->added, .special = e->special, .scratch = &e->word, .piece = on_raw_piece, .user = e};
    if (rc == 0) rc = added_cut_run(&cut, text, len);
    e->max += after;
    for (int i = 0; i < after && rc == 0; i++) rc = add_token(e, t->after[i]);
    return rc;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool add_special, bool parse_special,
                     int max_tokens, struct token_list *out, struct why *why) {
    int start = out->len;
    if (max_tokens < 0) max_tokens = 0;
    struct text_buf mended = {0};
    struct encoding *e = calloc(1, sizeof *e);
    int rc = e ? 0 : ERR_NOMEM;
    if (rc == 0 && utf8_valid_prefix(text, len) != len) {
        rc = utf8_append_lossy(&mended, text, len);
        text = mended.data;
        len = mended.len;
    }
    if (rc == 0) {
        *e = (struct encoding){
            .t = t, .out = out, .special = parse_special, .words = subword_work_new(&t->model, len >= CACHE_FROM_BYTES)};
        e->max = max_tokens > INT32_MAX - start ? INT32_MAX : start + max_tokens;
        e->pre.user = e;
        e->pre.word = on_word;
        rc = e->words ? encode(e, text, len, add_special) : ERR_NOMEM;
        subword_work_free(e->words);
        normal_work_clear(&e->normal);
        pre_work_clear(&e->pre);
        pattern_scratch_clear(&e->word);
    }
    free(e);
    text_buf_clear(&mended);
    if (rc == 0) return 0;
    out->len = start;
    if (rc == ERR_TOO_LARGE)
        return fail(why, rc, "the text has more than %d tokens, or a word that no pattern can take", max_tokens);
    if (rc == ERR_INVALID)
        return fail(why, rc, "the text has a character that the vocabulary lacks, and there is no unknown token");
    return fail(why, rc, "out of memory encoding %zu bytes", len);
}
