/* tokenizer_files.c - checkpoints without tokenizer.json: a SentencePiece model or a tiktoken vocabulary, and the special
 * tokens from the files beside it.
 *
 * What tokenizer.json would say is put together as JSON and read by the same code: decoder, added tokens, what goes around a
 * text. The model and the normaliser are made directly. Which characters of a text start with a blank that is not there follows
 * transformers: behind every special token with "legacy": true in tokenizer_config.json, else only at the start. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/json_field.h"
#include "model/json_read.h"
#include "model/text/sentencepiece.h"
#include "model/text/tiktoken.h"
#include "model/text/tokenizer_parts.h"

enum { MAX_FILE_BYTES = 256 << 20, KIMI_RESERVED = 256, HARMONY_END = 201088 };

static const struct slice_limits kimi_limits = {400000, 25000};

static const char *const where = "tokenizer_config.json";

/* ---- added tokens: by id, as JSON ---- */

static int put_token(json_t *by_id, int64_t id, const char *content, size_t len, bool special, struct why *why) {
    char key[24];
    snprintf(key, sizeof key, "%lld", (long long)id);
    json_t *v =
        json_pack("{s:I,s:s%,s:b,s:b}", "id", (json_int_t)id, "content", content, len, "special", special, "normalized", 0);
    return v && json_object_set_new(by_id, key, v) == 0 ? 0 : fail(why, ERR_NOMEM, "%s: out of memory", where);
}

/* "added_tokens_decoder": {"id": {"content": .., flags}}. */
static int put_decoder(json_t *by_id, const json_t *decoder, struct why *why) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)decoder, key, v) {
        char *end;
        struct text_span content;
        bool flag[4];
        static const char *const names[] = {"special", "lstrip", "rstrip", "single_word"};
        long long id = strtoll(key, &end, 10);
        if (!*key || *end || id < 0 || id >= VOCAB_MAX_ID)
            return fail(why, ERR_INVALID, "%s: '%.40s' in added_tokens_decoder is not an id", where, key);
        int rc = json_is_object(v) ? 0 : fail(why, ERR_INVALID, "%s: added_tokens_decoder: %s is not an object", where, key);
        if (rc == 0) rc = json_field_need_text(v, where, "content", &content, why);
        for (int i = 0; i < 4 && rc == 0; i++) rc = json_field_bool(v, where, names[i], false, &flag[i], why);
        if (rc == 0) rc = put_token(by_id, id, content.s, content.len, flag[0], why);
        if (rc < 0) return rc;
        json_t *entry = json_object_get(by_id, key);
        for (int i = 1; i < 4; i++)
            if (entry && flag[i]) json_object_set_new(entry, names[i], json_true());
    }
    return 0;
}

/* added_tokens.json: {"content": id}. */
static int put_added(json_t *by_id, const json_t *added, struct why *why) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)added, key, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= VOCAB_MAX_ID)
            return fail(why, ERR_INVALID, "added_tokens.json: the id of '%.60s' is not a number below %d", key, VOCAB_MAX_ID);
        char id[24];
        snprintf(id, sizeof id, "%lld", (long long)json_integer_value(v));
        if (json_object_get(by_id, id)) continue;
        int rc = put_token(by_id, json_integer_value(v), key, strlen(key), key[0] == '<' || key[0] == '[', why);
        if (rc < 0) return rc;
    }
    return 0;
}

static int put_hints(json_t *by_id, const struct tokenizer_hints *h, struct why *why) {
    int rc = put_decoder(by_id, json_object_get(h->tokenizer, "added_tokens_decoder"), why);
    return rc < 0 ? rc : put_added(by_id, h->added, why);
}

/* "bos_token" and the like: a text, or an object with "content". */
static int named_token(const struct tokenizer_hints *h, const char *name, struct text_span *out, struct why *why) {
    const json_t *v = json_object_get(h->tokenizer, name);
    *out = (struct text_span){0};
    return json_is_object(v) ? json_field_text(v, where, "content", out, why)
                             : json_field_text(h->tokenizer, where, name, out, why);
}

/* The id of a named special token, or `def` when the file does not name one. */
static int named_id(const struct tokenizer_hints *h, const char *name, const json_t *by_id, const struct vocab *vocab,
                    int64_t def, int64_t *id, struct why *why) {
    struct text_span t;
    int rc = named_token(h, name, &t, why);
    const char *key;
    json_t *v;
    *id = def;
    if (rc < 0 || !t.s) return rc;
    *id = vocab_id(vocab, t.s, t.len);
    json_object_foreach((json_t *)by_id, key, v) {
        if (!strcmp(json_string_value(json_object_get(v, "content")), t.s)) *id = json_integer_value(json_object_get(v, "id"));
    }
    return *id < 0 ? fail(why, ERR_INVALID, "%s: %s '%.60s' is no token of the vocabulary", where, name, t.s) : 0;
}

/* ---- the rest of a tokenizer.json ---- */

static const char spm_decoder[] =
    "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},"
    "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}";
static const char strip_decoder[] = "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}";
static const char bytes_decoder[] = "{\"type\":\"ByteLevel\"}";

static json_t *template_of(int64_t before, int64_t after) {
    json_t *single = json_array(), *specials = json_object();
    const int64_t around[] = {before, -1, after};
    for (int i = 0; i < 3; i++) {
        if (i == 1) json_array_append_new(single, json_pack("{s:{s:s}}", "Sequence", "id", "A"));
        if (around[i] < 0) continue;
        const char *name = i ? "after" : "before";
        json_array_append_new(single, json_pack("{s:{s:s}}", "SpecialToken", "id", name));
        json_object_set_new(specials, name, json_pack("{s:[I]}", "ids", (json_int_t)around[i]));
    }
    return json_pack("{s:s,s:o,s:o}", "type", "TemplateProcessing", "single", single, "special_tokens", specials);
}

/* Takes over every json_t. */
static json_t *rest_of(json_t *by_id, json_t *pre, json_t *decoder, json_t *post) {
    json_t *rest = json_object(), *list = json_array(), *v;
    const char *key;
    json_object_foreach(by_id, key, v) json_array_append(list, v);
    json_decref(by_id);
    int bad = !rest || json_object_set_new(rest, "added_tokens", list) < 0 || !decoder ||
              json_object_set_new(rest, "decoder", decoder) < 0;
    if (pre) bad |= !rest || json_object_set_new(rest, "pre_tokenizer", pre) < 0;
    if (post) bad |= !rest || json_object_set_new(rest, "post_processor", post) < 0;
    if (!bad) return rest;
    json_decref(rest);
    return NULL;
}

/* What goes around a text: by add_bos_token and add_eos_token; def: when the file does not say. */
static int read_around(const struct tokenizer_hints *h, const json_t *by_id, const struct vocab *vocab, int64_t bos,
                       int64_t eos, bool def, json_t **out, struct why *why) {
    bool add_bos, add_eos;
    int64_t before = -1, after = -1;
    int rc = json_field_bool(h->tokenizer, where, "add_bos_token", def, &add_bos, why);
    if (rc == 0) rc = json_field_bool(h->tokenizer, where, "add_eos_token", false, &add_eos, why);
    if (rc == 0 && add_bos) rc = named_id(h, "bos_token", by_id, vocab, bos, &before, why);
    if (rc == 0 && add_eos) rc = named_id(h, "eos_token", by_id, vocab, eos, &after, why);
    if (rc < 0) return rc;
    *out = before >= 0 || after >= 0 ? template_of(before, after) : NULL;
    return 0;
}

static int assemble(struct subword *model, struct normalizer *normal, json_t *rest, struct slice_limits limits,
                    struct tokenizer **out, struct why *why) {
    int rc =
        rest ? tokenizer_assemble(model, normal, rest, limits, out, why) : fail(why, ERR_NOMEM, "%s: out of memory", where);
    json_decref(rest);
    subword_clear(model);
    normalizer_clear(normal);
    return rc;
}

/* ---- the two kinds ---- */

static int from_spm(const char *bytes, size_t len, const struct tokenizer_hints *h, struct tokenizer **out, struct why *why) {
    struct spm m;
    struct subword *model = calloc(1, sizeof *model);
    struct normalizer normal = {0};
    json_t *by_id = json_object(), *post = NULL;
    bool legacy, prefix;
    int rc = spm_read(bytes, len, &m, why);
    if (rc == 0 && (!model || !by_id)) rc = fail(why, ERR_NOMEM, "%s: out of memory", where);
    if (rc == 0) rc = spm_model(&m, model, why);
    for (size_t i = 0; rc == 0 && i < m.n; i++)
        if (m.piece[i].type == SPM_CONTROL || m.piece[i].type == SPM_UNKNOWN)
            rc = put_token(by_id, (int64_t)i, m.piece[i].s, m.piece[i].len, true, why);
    if (rc == 0) rc = put_hints(by_id, h, why);
    if (rc == 0) rc = read_around(h, by_id, &model->vocab, m.bos, m.eos, m.bos >= 0, &post, why);
    if (rc == 0) rc = json_field_bool(h->tokenizer, where, "legacy", false, &legacy, why);
    if (rc == 0) rc = json_field_bool(h->tokenizer, where, "add_prefix_space", m.normal.dummy_prefix, &prefix, why);
    if (rc == 0) {
        m.normal.first_only = !legacy;
        m.normal.dummy_prefix = prefix;
        rc = normalizer_sentencepiece(&m.normal, &normal, why);
    }
    if (rc == 0) {
        json_t *decoder = json_loads(spm_decoder, 0, NULL);
        if (prefix) json_array_append_new(json_object_get(decoder, "decoders"), json_loads(strip_decoder, 0, NULL));
        rc = assemble(model, &normal, rest_of(by_id, NULL, decoder, post), (struct slice_limits){0}, out, why);
        by_id = post = NULL;
    }
    json_decref(by_id);
    json_decref(post);
    spm_clear(&m);
    if (model) subword_clear(model);
    free(model);
    normalizer_clear(&normal);
    return rc;
}

static const char *text_of(const json_t *obj, const char *key) { return json_string_value(json_object_get(obj, key)); }

/* Ids from `first` up to `end` that nothing names yet: their number between two texts. */
static int put_reserved(json_t *by_id, int64_t first, int64_t end, const char *before, const char *after, struct why *why) {
    int rc = 0;
    for (int64_t i = first; i < end && rc == 0; i++) {
        char key[24], name[64];
        snprintf(key, sizeof key, "%lld", (long long)i);
        int n = snprintf(name, sizeof name, "%s%s%s", before, key, after);
        if (!json_object_get(by_id, key)) rc = put_token(by_id, i, name, (size_t)n, true, why);
    }
    return rc;
}

static bool is_kimi(const char *pattern) { return strstr(pattern, "Han") != NULL; }

/* The special tokens that a vocabulary has by convention, where no file of the checkpoint says otherwise. */
static int put_family(json_t *by_id, const struct vocab *vocab, const char *pattern, const char *type, const char *file,
                      struct why *why) {
    static const struct {
        int id;
        const char *text;
    } harmony[] = {{199998, "<|startoftext|>"}, {199999, "<|endoftext|>"},  {200002, "<|return|>"}, {200003, "<|constrain|>"},
                   {200005, "<|channel|>"},     {200006, "<|start|>"},      {200007, "<|end|>"},    {200008, "<|message|>"},
                   {200012, "<|call|>"},        {200018, "<|endofprompt|>"}};
    if (is_kimi(pattern)) /* 256 behind the vocabulary */
        return put_reserved(by_id, vocab->size, vocab->size + KIMI_RESERVED, "<|reserved_token_", "|>", why);
    bool oss = (type && !strcmp(type, "gpt_oss")) || (file && strstr(file, "harmony"));
    if (!oss || vocab->size != harmony[0].id) return 0;
    int rc = 0;
    for (size_t i = 0; i < sizeof harmony / sizeof *harmony && rc == 0; i++) {
        char key[24];
        snprintf(key, sizeof key, "%d", harmony[i].id);
        if (!json_object_get(by_id, key))
            rc = put_token(by_id, harmony[i].id, harmony[i].text, strlen(harmony[i].text), true, why);
    }
    return rc < 0 ? rc : put_reserved(by_id, harmony[0].id, HARMONY_END, "<|reserved_", "|>", why);
}

static int from_tiktoken(const char *bytes, size_t len, const struct tokenizer_hints *h, struct tokenizer **out,
                         struct why *why) {
    const char *type = text_of(h->config, "model_type"), *class = text_of(h->tokenizer, "tokenizer_class");
    const char *pattern = tiktoken_pattern(type, class, h->file);
    struct subword *model = calloc(1, sizeof *model);
    struct normalizer normal = {0};
    json_t *by_id = json_object(), *post = NULL;
    int rc = model && by_id ? 0 : fail(why, ERR_NOMEM, "%s: out of memory", where);
    if (rc == 0 && !pattern)
        rc = fail(
            why, ERR_UNSUPPORTED,
            "the word pattern of this tiktoken vocabulary is not known: model_type is '%.40s', tokenizer_class '%.40s'; known "
            "are the model types %s. A tokenizer.json would say it",
            type ? type : "", class ? class : "", tiktoken_known);
    if (rc == 0) rc = tiktoken_read(bytes, len, model, why);
    if (rc == 0) rc = put_hints(by_id, h, why);
    if (rc == 0) rc = put_family(by_id, &model->vocab, pattern, type, h->file, why);
    if (rc == 0) rc = read_around(h, by_id, &model->vocab, -1, -1, false, &post, why);
    if (rc == 0) {
        json_t *pre = json_pack("{s:s,s:[{s:s,s:{s:s},s:s,s:b},{s:s,s:b,s:b}]}", "type", "Sequence", "pretokenizers", "type",
                                "Split", "pattern", "Regex", pattern, "behavior", "Isolated", "invert", 0, "type", "ByteLevel",
                                "add_prefix_space", 0, "use_regex", 0);
        struct slice_limits limits = is_kimi(pattern) ? kimi_limits : (struct slice_limits){0};
        rc = assemble(model, &normal, rest_of(by_id, pre, json_loads(bytes_decoder, 0, NULL), post), limits, out, why);
        by_id = post = NULL;
    }
    json_decref(by_id);
    json_decref(post);
    if (model) subword_clear(model);
    free(model);
    return rc;
}

int tokenizer_from_model(const char *bytes, size_t len, const struct tokenizer_hints *h, struct tokenizer **out,
                         struct why *why) {
    return spm_looks_like(bytes, len) ? from_spm(bytes, len, h, out, why) : from_tiktoken(bytes, len, h, out, why);
}

/* ---- a checkpoint's folder ---- */

/* The vocabulary's file name. False: none. */
static bool find_vocabulary(const char *dir, char *name, size_t cap) {
    static const char *const known[] = {"tokenizer.model", "tiktoken.model", "spiece.model", "sentencepiece.bpe.model"};
    DIR *d = opendir(dir);
    const struct dirent *e;
    size_t best = 99;
    while (d && (e = readdir(d))) {
        size_t len = strlen(e->d_name), rank = 0;
        while (rank < 4 && strcmp(e->d_name, known[rank])) rank++;
        if (rank == 4 && (len < 10 || strcmp(e->d_name + len - 9, ".tiktoken"))) continue;
        if (rank >= best || len >= cap) continue;
        best = rank;
        memcpy(name, e->d_name, len + 1);
    }
    if (d) closedir(d);
    return best < 99;
}

/* A JSON object of the folder; *out stays NULL when there is no such file. */
static int read_json(const char *dir, const char *name, json_t **out, struct why *why) {
    char path[4096], *text;
    size_t len;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return fail(why, ERR_INVALID, "%.200s: path too long", dir);
    int rc = json_read_bytes(path, MAX_FILE_BYTES, &text, &len, why);
    if (rc < 0) return rc == ERR_NOT_FOUND ? 0 : rc;
    rc = json_read_object(name, text, len, out, why);
    free(text);
    return rc;
}

int tokenizer_hints_open(const char *dir, struct tokenizer_hints *h, struct why *why) {
    int rc = read_json(dir, "config.json", &h->config, why);
    if (rc == 0) rc = read_json(dir, "tokenizer_config.json", &h->tokenizer, why);
    if (rc == 0) rc = read_json(dir, "special_tokens_map.json", &h->map, why);
    if (rc == 0 && json_is_true(json_object_get(h->tokenizer, "split_special_tokens")))
        rc = fail(why, ERR_UNSUPPORTED, "%s: 'split_special_tokens' is set: special tokens would be text, also the template's",
                  where);
    return rc < 0 ? rc : read_json(dir, "added_tokens.json", &h->added, why);
}

void tokenizer_hints_clear(struct tokenizer_hints *h) {
    json_decref(h->config);
    json_decref(h->tokenizer);
    json_decref(h->map);
    json_decref(h->added);
    *h = (struct tokenizer_hints){0};
}

int tokenizer_open_files(const char *dir, struct tokenizer **out, struct why *why) {
    char name[256], path[4096], *bytes = NULL;
    size_t len = 0;
    struct tokenizer_hints hints = {.file = name};
    if (!find_vocabulary(dir, name, sizeof name))
        return fail(why, ERR_NOT_FOUND,
                    "%.300s: no tokenizer: none of tokenizer.json, tokenizer.model, tiktoken.model and *.tiktoken is there",
                    dir);
    int rc = snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path
                 ? 0
                 : fail(why, ERR_INVALID, "%.200s: path too long", dir);
    if (rc == 0) rc = tokenizer_hints_open(dir, &hints, why);
    if (rc == 0) rc = json_read_bytes(path, MAX_FILE_BYTES, &bytes, &len, why);
    if (rc == 0) rc = tokenizer_from_model(bytes, len, &hints, out, why);
    tokenizer_hints_clear(&hints);
    free(bytes);
    return rc;
}
