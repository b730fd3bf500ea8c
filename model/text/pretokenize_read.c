/* pretokenize_read.c - tokenizer.json's "pre_tokenizer" into stages. */
#include <stdlib.h>
#include <string.h>

#include "model/json_field.h"
#include "model/text/pre_stage.h"
#include "model/text/pretokenize.h"
#include "model/text/utf8.h"

static const char *const where = "tokenizer.json: pre_tokenizer";
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/* The reference finds these words with another engine, to which joiners belong to words. */
static const char words_pattern[] = "[\\w\\u200c\\u200d]+|[^\\w\\u200c\\u200d\\s]+";

static int read_behaviour(const json_t *spec, bool needed, enum pre_behaviour *out, struct why *why) {
    static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"};
    struct text_span t;
    int rc =
        needed ? json_field_need_text(spec, where, "behavior", &t, why) : json_field_text(spec, where, "behavior", &t, why);
    if (rc < 0) return rc;
    *out = PRE_ISOLATED;
    if (!t.s) return 0;
    for (int i = 0; i < 5; i++) {
        if (strcmp(names[i], t.s)) continue;
        *out = (enum pre_behaviour)i;
        return 0;
    }
    return fail(why, ERR_UNSUPPORTED, "%s: behavior '%.60s' is not known", where, t.s);
}

static int read_char(const json_t *spec, const char *key, struct pre_stage *s, struct why *why) {
    struct text_span t;
    int rc = json_field_need_text(spec, where, key, &t, why);
    if (rc < 0) return rc;
    if (!t.len || (size_t)utf8_next(t.s, &s->ch) != t.len)
        return fail(why, ERR_INVALID, "%s: '%s' must be one character", where, key);
    memcpy(s->mark, t.s, t.len);
    s->mark_len = t.len;
    return 0;
}

static int read_split(const json_t *spec, struct pre_stage *s, struct why *why) {
    int rc = pattern_read(json_object_get(spec, "pattern"), where, &s->pattern, why);
    if (rc == 0) rc = read_behaviour(spec, true, &s->behaviour, why);
    return rc < 0 ? rc : json_field_bool(spec, where, "invert", false, &s->invert, why);
}

static int read_bytes(const json_t *spec, struct pre_stage *s, struct why *why) {
    bool use_regex;
    int rc = json_field_bool(spec, where, "add_prefix_space", true, &s->add_prefix_space, why);
    if (rc == 0) rc = json_field_bool(spec, where, "use_regex", true, &use_regex, why);
    return rc < 0 || !use_regex ? rc : pattern_open(gpt2_pattern, sizeof gpt2_pattern - 1, &s->pattern, why);
}

static int read_metaspace(const json_t *spec, struct pre_stage *s, struct why *why) {
    static const char *const names[] = {"always", "first", "never"};
    struct text_span scheme;
    bool prefix;
    int rc = read_char(spec, "replacement", s, why);
    if (rc == 0) rc = json_field_text(spec, where, "prepend_scheme", &scheme, why);
    if (rc == 0) rc = json_field_bool(spec, where, "add_prefix_space", true, &prefix, why);
    if (rc == 0) rc = json_field_bool(spec, where, "split", true, &s->split, why);
    if (rc < 0) return rc;
    s->scheme = prefix ? PRE_ALWAYS : PRE_NEVER;
    if (!scheme.s) return 0;
    for (int i = 0; i < 3; i++) {
        if (strcmp(names[i], scheme.s)) continue;
        s->scheme = (enum pre_scheme)i;
        if (!prefix && s->scheme != PRE_NEVER)
            return fail(why, ERR_INVALID, "%s: 'add_prefix_space' contradicts 'prepend_scheme'", where);
        return 0;
    }
    return fail(why, ERR_UNSUPPORTED, "%s: prepend_scheme '%.60s' is not known", where, scheme.s);
}

static int read_one(const json_t *spec, const char *type, struct pre_stage *s, struct why *why) {
    bool individual;
    int rc;
    if (!strcmp(type, "Split")) {
        s->kind = PRE_SPLIT;
        return read_split(spec, s, why);
    }
    if (!strcmp(type, "ByteLevel")) {
        s->kind = PRE_BYTES;
        return read_bytes(spec, s, why);
    }
    if (!strcmp(type, "Metaspace")) {
        s->kind = PRE_METASPACE;
        return read_metaspace(spec, s, why);
    }
    if (!strcmp(type, "Whitespace")) { /* words and runs of other visible characters are what stays */
        s->kind = PRE_SPLIT;
        s->behaviour = PRE_REMOVED;
        s->invert = true;
        return pattern_open(words_pattern, sizeof words_pattern - 1, &s->pattern, why);
    }
    if (!strcmp(type, "FixedLength")) {
        s->kind = PRE_FIXED;
        s->chars = 5;
        return json_object_get(spec, "length") ? json_field_int(spec, where, "length", 1, INT32_MAX, &s->chars, why) : 0;
    }
    s->kind = PRE_CLASS;
    if (!strcmp(type, "Digits")) {
        rc = json_field_bool(spec, where, "individual_digits", false, &individual, why);
        s->class = PRE_NUMERIC;
        s->behaviour = individual ? PRE_ISOLATED : PRE_CONTIGUOUS;
        return rc;
    }
    if (!strcmp(type, "Punctuation")) {
        s->class = PRE_PUNCT;
        return read_behaviour(spec, false, &s->behaviour, why);
    }
    s->behaviour = PRE_REMOVED;
    if (!strcmp(type, "WhitespaceSplit")) {
        s->class = PRE_SPACE;
        return 0;
    }
    if (!strcmp(type, "CharDelimiterSplit")) {
        s->class = PRE_CHAR;
        return read_char(spec, "delimiter", s, why);
    }
    return fail(why, ERR_UNSUPPORTED, "%s: type '%.60s' is not known", where, type);
}

static int read_stages(const json_t *spec, int depth, struct pretokenizer *out, struct why *why) {
    struct text_span type;
    if (depth > PIPELINE_MAX_NESTING)
        return fail(why, ERR_INVALID, "%s: sequences nest deeper than %d", where, PIPELINE_MAX_NESTING);
    if (!json_is_object(spec)) return fail(why, ERR_INVALID, "%s: every stage must be an object", where);
    int rc = json_field_need_text(spec, where, "type", &type, why);
    if (rc < 0) return rc;
    if (!strcmp(type.s, "Sequence")) {
        const json_t *list = json_object_get(spec, "pretokenizers"), *v;
        if (!json_is_array(list)) return fail(why, ERR_INVALID, "%s: a Sequence needs the list 'pretokenizers'", where);
        size_t i;
        json_array_foreach(list, i, v) {
            rc = read_stages(v, depth + 1, out, why);
            if (rc < 0) return rc;
        }
        return 0;
    }
    bool bert = !strcmp(type.s, "BertPreTokenizer"); /* two stages */
    if (out->n + bert >= PIPELINE_MAX_STAGES)
        return fail(why, ERR_INVALID, "%s: more than %d stages", where, PIPELINE_MAX_STAGES);
    if (!bert) return read_one(spec, type.s, &out->stages[out->n++], why);
    out->stages[out->n++] = (struct pre_stage){.kind = PRE_CLASS, .class = PRE_SPACE, .behaviour = PRE_REMOVED};
    out->stages[out->n++] = (struct pre_stage){.kind = PRE_CLASS, .class = PRE_PUNCT, .behaviour = PRE_ISOLATED};
    return 0;
}

int pretokenizer_read(const json_t *spec, struct pretokenizer *out, struct why *why) {
    *out = (struct pretokenizer){0};
    if (!spec || json_is_null(spec)) return 0;
    out->stages = calloc(PIPELINE_MAX_STAGES, sizeof *out->stages);
    if (!out->stages) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    return read_stages(spec, 1, out, why);
}

void pretokenizer_clear(struct pretokenizer *p) {
    for (int i = 0; i < p->n; i++) pattern_close(p->stages[i].pattern);
    free(p->stages);
    *p = (struct pretokenizer){0};
}
