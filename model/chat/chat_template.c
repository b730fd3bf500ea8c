/* chat_template.c - chat_template.h over the engine of jinja.h: finding the template and the special tokens in a checkpoint's
 * files, turning messages or JSON into values, one rendering.
 *
 * A rendering owns an arena; the template is only read. Templates see what transformers gives them: messages, tools and
 * documents (none here), add_generation_prompt, and the special tokens that are set. */
#include "model/chat/chat_template.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat/jinja.h"
#include "model/json_field.h"
#include "model/json_read.h"
#include "model/text/tokenizer_parts.h"

enum { MAX_FILE_BYTES = 32 << 20, MAX_JSON_DEPTH = 200, MAX_SPECIALS = 64 };

struct special {
    char *name, *text;
    size_t len;
};
struct chat_template {
    struct jinja_template jinja, tools;   /* tools: for requests with tools; body NULL: the same one */
    struct special special[MAX_SPECIALS]; /* those with text */
    int n_special;
};

int chat_template_compile(const char *source, size_t len, struct chat_template **out, struct why *why) {
    struct chat_template *t = calloc(1, sizeof *t);
    if (!t) return fail(why, ERR_NOMEM, "out of memory compiling the chat template");
    int rc = jinja_compile(source, len, &t->jinja, why);
    if (rc < 0) {
        chat_template_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void chat_template_close(struct chat_template *t) {
    if (!t) return;
    jinja_clear(&t->jinja);
    jinja_clear(&t->tools);
    for (int i = 0; i < t->n_special; i++) {
        free(t->special[i].name);
        free(t->special[i].text);
    }
    free(t);
}

/* ---- from a checkpoint ---- */

/* A JSON object from dir/name. 1; 0: no such file. */
static int read_json(const char *dir, const char *name, json_t **out, struct why *why) {
    char path[4096], *text;
    size_t len;
    *out = NULL;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return fail(why, ERR_INVALID, "%.200s: path too long", dir);
    int rc = json_read_bytes(path, MAX_FILE_BYTES, &text, &len, why);
    if (rc < 0) return rc == ERR_NOT_FOUND ? 0 : rc;
    json_error_t e;
    *out = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    free(text);
    if (!*out) return fail(why, ERR_INVALID, "%.300s: line %d: %s", path, e.line, e.text);
    if (json_is_object(*out)) return 1;
    json_decref(*out);
    *out = NULL;
    return fail(why, ERR_INVALID, "%.300s: not an object", path);
}

/* The templates of a checkpoint. Texts are borrowed from the JSON, or owned by file, file_tools. */
struct sources {
    struct text_span plain, tools;
    char *file, *file_tools;
};

static void take_source(struct sources *out, const char *name, struct text_span text) {
    if (!strcmp(name, "default")) out->plain = text;
    if (!strcmp(name, "tool_use")) out->tools = text;
}

/* "chat_template": a text, or by name as a list of {name, template} or as an object, of which "default" and "tool_use" are
 * taken. 1, 0: there is none. */
static int template_of(const json_t *config, const char *where, struct sources *out, struct why *why) {
    const json_t *v = json_object_get(config, "chat_template"), *one;
    struct text_span name, text;
    size_t i;
    if (!v || json_is_null(v)) return 0;
    if (json_is_string(v)) {
        out->plain = (struct text_span){json_string_value(v), json_string_length(v)};
        return 1;
    }
    if (!json_is_array(v) && !json_is_object(v))
        return fail(why, ERR_INVALID, "%s: 'chat_template' must be a text, a list or an object", where);
    json_array_foreach(v, i, one) {
        int rc = json_field_need_text(one, where, "name", &name, why);
        if (rc == 0) rc = json_field_need_text(one, where, "template", &text, why);
        if (rc < 0) return rc;
        take_source(out, name.s, text);
    }
    const char *key;
    json_object_foreach((json_t *)v, key, one) {
        int rc = json_field_need_text(v, where, key, &text, why);
        if (rc < 0) return rc;
        take_source(out, key, text);
    }
    if (out->plain.s) return 1;
    return fail(why, ERR_UNSUPPORTED, "%s: no entry of 'chat_template' is called 'default'", where);
}

/* A template in a file of its own. 1, 0: no such file. */
static int template_file(const char *dir, const char *name, char **file, struct text_span *out, struct why *why) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return fail(why, ERR_INVALID, "%.200s: path too long", dir);
    int rc = json_read_bytes(path, MAX_FILE_BYTES, file, &out->len, why);
    out->s = *file;
    return rc == ERR_NOT_FOUND ? 0 : rc < 0 ? rc : 1;
}

/* In transformers' order: files before tokenizer_config.json; chat_template.json is what processors used to write. */
static int find_sources(const char *dir, const json_t *config, const json_t *legacy, struct sources *s, struct why *why) {
    int rc = template_file(dir, "chat_template.jinja", &s->file, &s->plain, why);
    if (rc > 0) {
        rc = template_file(dir, "additional_chat_templates/tool_use.jinja", &s->file_tools, &s->tools, why);
        return rc < 0 ? rc : 1;
    }
    if (rc == 0) rc = template_of(config, "tokenizer_config.json", s, why);
    if (rc == 0) rc = template_of(legacy, "chat_template.json", s, why);
    if (rc != 0) return rc;
    return fail(why, ERR_NOT_FOUND,
                "%.300s: no chat template: neither chat_template.jinja nor 'chat_template' in tokenizer_config.json", dir);
}

static int add_special(struct chat_template *t, const char *name, const json_t *v, struct why *why) {
    if (json_is_object(v)) v = json_object_get(v, "content");
    if (!json_is_string(v) && !json_is_null(v) && v && tokenizer_standard_name(name))
        return fail(why, ERR_INVALID, "tokenizer_config.json: '%s' must be a text", name);
    if (!json_is_string(v) || t->n_special == MAX_SPECIALS) return 0;
    struct special *s = &t->special[t->n_special];
    *s = (struct special){strdup(name), malloc(json_string_length(v) + 1), json_string_length(v)};
    t->n_special++;
    if (!s->name || !s->text) return fail(why, ERR_NOMEM, "out of memory reading the chat template");
    memcpy(s->text, json_string_value(v), s->len + 1);
    return 0;
}

/* Special tokens that a template may print, as text or {"content": text}: whatever is called ..._token, and the extra ones that
 * have a name. */
static int read_specials(const json_t *config, const json_t *map, struct chat_template *t, struct why *why) {
    json_t *names = tokenizer_named_config(config, map), *v;
    const char *key;
    int rc = names ? 0 : fail(why, ERR_NOMEM, "out of memory reading the chat template");
    json_object_foreach(names, key, v) {
        size_t len = strlen(key);
        if (rc == 0 && len > 6 && !strcmp(key + len - 6, "_token")) rc = add_special(t, key, v, why);
    }
    json_object_foreach(json_object_get(names, "extra_special_tokens"), key, v) {
        if (rc == 0) rc = add_special(t, key, v, why);
    }
    json_decref(names);
    return rc;
}

int chat_template_open(const char *dir, struct chat_template **out, struct why *why) {
    json_t *config = NULL, *map = NULL, *legacy = NULL;
    struct sources source = {0};
    struct chat_template *t = NULL;
    int rc = read_json(dir, "tokenizer_config.json", &config, why);
    if (rc >= 0) rc = read_json(dir, "special_tokens_map.json", &map, why);
    if (rc >= 0) rc = read_json(dir, "chat_template.json", &legacy, why);
    if (rc >= 0) rc = find_sources(dir, config, legacy, &source, why);
    if (rc >= 0) rc = chat_template_compile(source.plain.s, source.plain.len, &t, why);
    if (rc == 0 && source.tools.s) {
        rc = jinja_compile(source.tools.s, source.tools.len, &t->tools, why);
        if (rc < 0) fail_in(why, rc, "the template for requests with tools");
    }
    if (rc == 0) rc = read_specials(config, map, t, why);
    json_decref(config);
    json_decref(map);
    json_decref(legacy);
    free(source.file);
    free(source.file_tools);
    if (rc < 0) {
        chat_template_close(t);
        return rc == ERR_NOT_FOUND ? rc : fail_in(why, rc, "%.200s", dir);
    }
    *out = t;
    return 0;
}

/* ---- rendering ---- */

static int bind(struct jinja_run *r, const char *name, struct jv v) {
    struct jv key;
    int rc = jv_str(r, name, strlen(name), &key);
    return rc < 0 ? rc : jinja_bind(r, r->scope, key.u.s, v);
}

static int open_run(struct jinja_run *r, const struct chat_template *t, int64_t now, struct text_buf *text, struct why *why) {
    *r = (struct jinja_run){.why = why, .now = now, .out = text};
    arena_init(&r->arena, 256 << 10);
    struct jv name, v;
    int rc = jv_str(r, "loop", 4, &name);
    if (rc == 0) r->loop_name = name.u.s;
    if (rc == 0) rc = jv_str(r, "caller", 6, &name);
    if (rc == 0) r->caller_name = name.u.s;
    r->scope = jinja_alloc(r, sizeof *r->scope);
    if (rc == 0 && !r->scope) rc = jinja_oom(r);
    for (int i = 0; i < t->n_special && rc == 0; i++) {
        rc = jv_str(r, t->special[i].text, t->special[i].len, &v);
        if (rc == 0) rc = bind(r, t->special[i].name, v);
    }
    r->steps = 0; /* the input does not count */
    return rc;
}

static int finish_run(struct jinja_run *r, int rc, const struct jinja_template *t, struct text_buf *text,
                      struct text_buf *out) {
    int flow = 0;
    r->steps = 0;
    if (rc == 0) rc = jinja_exec(r, t->body, &flow);
    if (rc == 0 && text_buf_append(out, text->data, text->len) < 0)
        rc = fail(r->why, ERR_NOMEM, "out of memory rendering the chat template");
    arena_clear(&r->arena);
    text_buf_clear(text);
    return rc;
}

static int message_value(struct jinja_run *r, const struct chat_message *m, struct jv *out) {
    struct jv k, v;
    int rc = jv_dict_new(r, 2, out);
    for (int i = 0; i < 2 && rc == 0; i++) {
        const char *text = i ? m->content : m->role;
        rc = jv_str(r, i ? "content" : "role", i ? 7 : 4, &k);
        if (rc == 0) rc = jv_str(r, text, strlen(text), &v);
        if (rc == 0) rc = jv_dict_put(r, out->u.dict, k, v);
        r->steps = 0;
    }
    return rc;
}

int chat_template_render(const struct chat_template *t, const struct chat_message *messages, int n, bool add_generation_prompt,
                         int64_t now, struct text_buf *out, struct why *why) {
    struct jinja_run r;
    struct text_buf text = {0};
    struct jv list;
    int rc = open_run(&r, t, now, &text, why);
    if (rc == 0) rc = jv_list_new(&r, JV_LIST, (size_t)n, &list);
    for (int i = 0; i < n && rc == 0; i++) rc = message_value(&r, &messages[i], &list.u.list->v[i]);
    if (rc == 0) rc = bind(&r, "messages", list);
    if (rc == 0) rc = bind(&r, "tools", jv_none());
    if (rc == 0) rc = bind(&r, "documents", jv_none());
    if (rc == 0) rc = bind(&r, "add_generation_prompt", jv_bool(add_generation_prompt));
    return finish_run(&r, rc, &t->jinja, &text, out);
}

static int from_json(struct jinja_run *r, const json_t *j, int depth, struct jv *out) {
    const char *key;
    json_t *value;
    size_t i;
    int rc = 0;
    r->steps = 0;
    if (depth > MAX_JSON_DEPTH)
        return fail(r->why, ERR_TOO_LARGE, "the variables of the chat template nest deeper than %d", MAX_JSON_DEPTH);
    switch (json_typeof(j)) {
    case JSON_NULL: *out = jv_none(); return 0;
    case JSON_TRUE:
    case JSON_FALSE: *out = jv_bool(json_is_true(j)); return 0;
    case JSON_INTEGER: *out = jv_int(json_integer_value(j)); return 0;
    case JSON_REAL: *out = jv_float(json_real_value(j)); return 0;
    case JSON_STRING: return jv_str(r, json_string_value(j), json_string_length(j), out);
    case JSON_ARRAY:
        rc = jv_list_new(r, JV_LIST, json_array_size(j), out);
        json_array_foreach(j, i, value) {
            if (rc == 0) rc = from_json(r, value, depth + 1, &out->u.list->v[i]);
        }
        return rc;
    case JSON_OBJECT:
        rc = jv_dict_new(r, json_object_size(j), out);
        json_object_foreach((json_t *)j, key, value) {
            struct jv k, v;
            if (rc == 0) rc = jv_str(r, key, strlen(key), &k);
            if (rc == 0) rc = from_json(r, value, depth + 1, &v);
            if (rc == 0) rc = jv_dict_put(r, out->u.dict, k, v);
        }
        return rc;
    }
    return 0;
}

int chat_template_render_json(const struct chat_template *t, const char *json, size_t len, int64_t now, struct text_buf *out,
                              struct why *why) {
    struct jinja_run r;
    struct text_buf text = {0};
    json_error_t e;
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e), *value;
    if (!root) return fail(why, ERR_INVALID, "the variables of the chat template: line %d: %s", e.line, e.text);
    const char *key;
    int rc = open_run(&r, t, now, &text, why);
    if (rc == 0 && !json_is_object(root)) rc = fail(why, ERR_INVALID, "the variables of the chat template must be an object");
    if (rc == 0) {
        json_object_foreach(root, key, value) {
            struct jv v;
            if (rc == 0) rc = from_json(&r, value, 1, &v);
            if (rc == 0) rc = bind(&r, key, v);
        }
    }
    const json_t *tools = json_object_get(root, "tools");
    bool with_tools = tools && !json_is_null(tools) && t->tools.body;
    json_decref(root);
    return finish_run(&r, rc, with_tools ? &t->tools : &t->jinja, &text, out);
}
