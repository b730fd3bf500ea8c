/* tokenizer_named.c - tokens that tokenizer_config.json and its older companions name beside a tokenizer.json.
 *
 * As transformers does: those of "added_tokens_decoder" count where they differ from tokenizer.json's or are not in it; without
 * it, special_tokens_map.json replaces the names and added_tokens.json adds tokens. Then whatever has a name ("eos_token",
 * "image_token", the extra special tokens) is a special token, and is one of the vocabulary's or stands behind it. The keys
 * add_bos_token and add_eos_token mean nothing beside a tokenizer.json: its post-processor says what goes around a text. */
#include <stdlib.h>
#include <string.h>

#include "model/json_field.h"
#include "model/text/tokenizer_parts.h"

static const char *const standard[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};
enum { STANDARD = sizeof standard / sizeof *standard };

struct named {
    json_t *list;   /* tokenizer.json's added tokens, changed in place */
    json_t *config; /* a copy, with what special_tokens_map.json says */
    const struct vocab *vocab;
    int64_t next; /* the id of a token that is new */
    struct why *why;
};

static int out_of_memory(struct named *n) { return fail(n->why, ERR_NOMEM, "tokenizer_config.json: out of memory"); }

static const json_t *content_of(const json_t *token) {
    return json_is_object(token) ? json_object_get(token, "content") : token;
}

static json_t *find(struct named *n, const json_t *content) {
    size_t i;
    json_t *v;
    json_array_foreach(n->list, i, v) {
        if (json_equal(json_object_get(v, "content"), content)) return v;
    }
    return NULL;
}

/* Adds a token, or gives the one of that text new flags. flags: an object, or NULL: none are set. */
static int put(struct named *n, const json_t *content, const json_t *flags, bool special) {
    static const char *const names[] = {"single_word", "lstrip", "rstrip"};
    const char *s = json_string_value(content);
    size_t len = json_string_length(content);
    if (!s || !len) return 0;
    json_t *token = find(n, content);
    if (!token) {
        int64_t id = vocab_id(n->vocab, s, len);
        if (id < 0) id = n->next++;
        token = json_pack("{s:O,s:I}", "content", content, "id", (json_int_t)id);
        if (!token || json_array_append_new(n->list, token) < 0) return out_of_memory(n);
    }
    special |= json_is_true(json_object_get(token, "special")); /* once special, always */
    int bad = json_object_set_new(token, "special", json_boolean(special));
    const json_t *normalized = json_object_get(flags, "normalized");
    bad |=
        json_object_set_new(token, "normalized", normalized ? json_boolean(json_is_true(normalized)) : json_boolean(!special));
    for (int i = 0; i < 3; i++)
        bad |= json_object_set_new(token, names[i], json_boolean(json_is_true(json_object_get(flags, names[i]))));
    return bad ? out_of_memory(n) : 0;
}

/* A token with a name: special, and otherwise as it is where it is known. An extra one that is known stays as it is. */
static int put_named(struct named *n, const json_t *token, bool extra) {
    const json_t *content = content_of(token);
    if (!json_is_string(content)) return 0;
    json_t *known = find(n, content);
    if (known && extra) return 0;
    if (known) return json_object_set_new(known, "special", json_true()) < 0 ? out_of_memory(n) : 0;
    return put(n, content, json_is_object(token) ? token : NULL, true);
}

/* ---- the files ---- */

static int by_id(const void *x, const void *y) {
    long long a = strtoll(*(const char *const *)x, NULL, 10), b = strtoll(*(const char *const *)y, NULL, 10);
    return a < b ? -1 : a > b;
}

/* "added_tokens_decoder", in the order of its ids. */
static int put_decoder(struct named *n, const json_t *decoder) {
    const char *key, **order = malloc((json_object_size(decoder) + 1) * sizeof *order);
    json_t *v;
    size_t count = 0;
    int rc = order ? 0 : out_of_memory(n);
    json_object_foreach((json_t *)decoder, key, v) {
        if (order) order[count++] = key;
    }
    if (order) qsort(order, count, sizeof *order, by_id);
    for (size_t i = 0; i < count && rc == 0; i++) {
        v = json_object_get(decoder, order[i]);
        if (!json_is_object(v) || !json_is_string(json_object_get(v, "content")))
            rc = fail(n->why, ERR_INVALID, "tokenizer_config.json: added_tokens_decoder: '%.40s' is not a token", order[i]);
        else rc = put(n, json_object_get(v, "content"), v, json_is_true(json_object_get(v, "special")));
    }
    free(order);
    return rc;
}

static const json_t *extras(const json_t *config) {
    const json_t *extra = json_object_get(config, "extra_special_tokens");
    bool some = json_array_size(extra) || json_object_size(extra);
    return some ? extra : json_object_get(config, "additional_special_tokens");
}

static bool is_named(const json_t *config, const json_t *content) {
    size_t k;
    const json_t *v;
    json_array_foreach(extras(config), k, v) {
        if (json_equal(content_of(v), content)) return true;
    }
    for (int i = 0; i < STANDARD; i++)
        if (json_equal(content_of(json_object_get(config, standard[i])), content)) return true;
    return false;
}

/* added_tokens.json: {"content": id}, in the order of the ids. Those of tokenizer.json stay as they are. */
static int put_added(struct named *n, const json_t *added) {
    const char *key, *best = NULL;
    json_t *v;
    int64_t last = -1;
    int rc = 0;
    do {
        int64_t low = INT64_MAX;
        json_object_foreach((json_t *)added, key, v) {
            int64_t id = json_is_integer(v) ? json_integer_value(v) : -1;
            if (id <= last || id >= low) continue;
            low = id;
            best = key;
        }
        if (low == INT64_MAX) break;
        last = low;
        json_t *content = json_string(best);
        if (!content) return out_of_memory(n);
        if (!find(n, content)) rc = put(n, content, NULL, is_named(n->config, content));
        json_decref(content);
    } while (rc == 0);
    return rc;
}

static bool is_custom(const char *key, const json_t *v) { /* "image_token" and the like */
    size_t len = strlen(key);
    return len > 6 && !strcmp(key + len - 6, "_token") && (json_is_string(v) || json_is_object(v));
}

static int put_names(struct named *n) {
    const char *key;
    json_t *v;
    size_t i;
    int rc = 0;
    for (i = 0; i < STANDARD && rc == 0; i++) rc = put_named(n, json_object_get(n->config, standard[i]), false);
    json_t *extra = (json_t *)extras(n->config);
    json_object_foreach(n->config, key, v) {
        if (rc == 0 && is_custom(key, v)) rc = put_named(n, v, false);
    }
    json_object_foreach(json_is_object(extra) ? extra : NULL, key, v) {
        if (rc == 0) rc = put_named(n, v, false);
    }
    json_array_foreach(extra, i, v) {
        if (rc == 0) rc = put_named(n, v, true);
    }
    return rc;
}

static int64_t first_free(const json_t *list, const struct vocab *vocab) {
    size_t i;
    const json_t *v;
    int64_t next = vocab->count;
    json_array_foreach(list, i, v) {
        int64_t id = json_integer_value(json_object_get(v, "id"));
        if (id >= next && id < VOCAB_MAX_ID) next = id + 1;
    }
    return next;
}

bool tokenizer_standard_name(const char *name) {
    for (int i = 0; i < STANDARD; i++)
        if (!strcmp(name, standard[i])) return true;
    return false;
}

json_t *tokenizer_named_config(const json_t *config, const json_t *map) {
    json_t *out = config ? json_copy((json_t *)config) : json_object();
    if (!map || json_object_get(config, "added_tokens_decoder") || json_object_update(out, (json_t *)map) == 0) return out;
    json_decref(out);
    return NULL;
}

int tokenizer_add_named(json_t *root, const struct vocab *vocab, const struct tokenizer_hints *h, struct why *why) {
    json_t *list = json_object_get(root, "added_tokens"), *decoder = json_object_get(h->tokenizer, "added_tokens_decoder");
    if (!h->tokenizer && !h->map && !h->added) return 0;
    if (!list || json_is_null(list)) {
        list = json_array();
        if (!list || json_object_set_new(root, "added_tokens", list) < 0)
            return fail(why, ERR_NOMEM, "tokenizer.json: out of memory");
    }
    if (!json_is_array(list)) return 0; /* refused when it is read */
    struct named n = {list, tokenizer_named_config(h->tokenizer, h->map), vocab, 0, why};
    n.next = first_free(list, vocab);
    int rc = n.config ? 0 : out_of_memory(&n);
    if (rc == 0) rc = decoder ? put_decoder(&n, decoder) : put_added(&n, h->added);
    if (rc == 0) rc = put_names(&n);
    json_decref(n.config);
    return rc;
}
