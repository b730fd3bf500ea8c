/* test_chat_template.c - the template engine against Jinja itself, on the committed fixtures: whole templates over many inputs,
 * snippets of the language, and templates that must be refused within bounds. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat/chat_template.h"
#include "tests/unit/model/fixture.h"
#include "tests/unit/model/tiny.h"

#include <check.h> /* last: it has a macro called fail */

enum { NOW = 1741503902 }; /* Sunday 2025-03-09 07:05:02 */

static json_t *inputs; /* name -> context */

static json_t *parse(const char *text, size_t len) {
    json_error_t e;
    json_t *v = json_loadb(text, len, JSON_ALLOW_NUL | JSON_DECODE_ANY, &e);
    if (!v) ck_abort_msg("fixture: %s in %.80s", e.text, text);
    return v;
}

/* The next line of a .jsonl file, or NULL; unparsed lines that hold integers beyond 64 bits are skipped: nothing here reads
 * them. */
static json_t *next_line(struct fixture *f) {
    while (!fixture_end(f)) {
        const char *start = f->data + f->at, *end = memchr(start, '\n', f->len - f->at);
        size_t len = end ? (size_t)(end - start) : f->len - f->at;
        f->at += len + (end != NULL);
        if (len) return parse(start, len);
    }
    return NULL;
}

static const char *text_of(const json_t *line, const char *key) { return json_string_value(json_object_get(line, key)); }

/* Renders; returns the status. out is the text, or why's. */
static int render(const char *source, size_t len, const char *context, struct text_buf *out) {
    struct chat_template *t;
    struct why why = {""};
    int rc = chat_template_compile(source, len, &t, &why);
    if (rc == 0) {
        rc = chat_template_render_json(t, context, strlen(context), NOW, out, &why);
        chat_template_close(t);
        if (rc < 0) ck_assert_uint_eq(out->len, 0);
    }
    if (rc < 0) {
        ck_assert(strlen(why.text) > 0);
        text_buf_append(out, why.text, strlen(why.text));
    }
    return rc;
}

/* One line of cases or snippets. `may_refuse`: an error is as good as the right text. */
static void check_line(const json_t *line, const char *name, const char *source, size_t len, const char *context,
                       bool may_refuse) {
    struct text_buf got = {0};
    const json_t *expect = json_object_get(line, "expect");
    int rc = render(source, len, context, &got);
    const char *error = text_of(line, "error");
    if (expect && rc == 0)
        ck_assert_msg(got.len == json_string_length(expect) &&
                          !memcmp(got.data ? got.data : "", json_string_value(expect), got.len),
                      "%s:\n--- got\n%s\n--- wanted\n%s\n---", name, got.data ? got.data : "", json_string_value(expect));
    else if (expect && !may_refuse) ck_abort_msg("%s: refused (%s), wanted %s", name, got.data, json_string_value(expect));
    else if (!expect && rc == 0)
        ck_abort_msg("%s: rendered '%s', wanted an error: %s", name, got.data, text_of(line, "message"));
    else if (!expect && !strcmp(error, "raise"))
        ck_assert_msg(!strcmp(got.data, text_of(line, "message")), "%s: '%s', wanted '%s'", name, got.data,
                      text_of(line, "message"));
    text_buf_clear(&got);
}

static void open_inputs(void) {
    struct fixture f;
    json_t *line;
    fixture_open(&f, "templates/inputs.jsonl");
    inputs = json_object();
    while ((line = next_line(&f))) {
        json_object_set(inputs, text_of(line, "name"), json_object_get(line, "context"));
        json_decref(line);
    }
    fixture_close(&f);
}

static void close_inputs(void) { json_decref(inputs); }

static char *context_of(const char *input) { return json_dumps(json_object_get(inputs, input), JSON_COMPACT); }

START_TEST(published_templates_render_as_in_jinja) {
    struct fixture f, source;
    json_t *line;
    int n = 0;
    open_inputs();
    fixture_open(&f, "templates/cases.jsonl");
    while ((line = next_line(&f))) {
        char path[300], name[300];
        snprintf(path, sizeof path, "templates/%s", text_of(line, "template"));
        snprintf(name, sizeof name, "%s over %s", text_of(line, "template"), text_of(line, "input"));
        fixture_open(&source, path);
        char *context = context_of(text_of(line, "input"));
        check_line(line, name, source.data, source.len, context, false);
        free(context);
        fixture_close(&source);
        json_decref(line);
        n++;
    }
    ck_assert_int_ge(n, 500);
    fixture_close(&f);
    close_inputs();
}
END_TEST

START_TEST(snippets_render_as_in_jinja) {
    struct fixture f, data;
    json_t *line;
    int n = 0;
    fixture_open(&data, "templates/snippets.data.json");
    fixture_open(&f, "templates/snippets.jsonl");
    while ((line = next_line(&f))) {
        const json_t *source = json_object_get(line, "template");
        check_line(line, json_string_value(source), json_string_value(source), json_string_length(source), data.data,
                   !strcmp(text_of(line, "need"), "extra"));
        json_decref(line);
        n++;
    }
    ck_assert_int_ge(n, 250);
    fixture_close(&f);
    fixture_close(&data);
}
END_TEST

static void append_parts(const json_t *parts, struct text_buf *source) {
    size_t i;
    const json_t *part;
    json_array_foreach(parts, i, part) {
        const json_t *text = json_array_get(part, 0);
        for (json_int_t k = json_integer_value(json_array_get(part, 1)); k > 0; k--)
            text_buf_append(source, json_string_value(text), json_string_length(text));
    }
}

START_TEST(bad_templates_never_yield_a_prompt) {
    struct fixture f;
    json_t *line;
    open_inputs();
    char *context = context_of("one_user");
    fixture_open(&f, "templates/refused.jsonl");
    while ((line = next_line(&f))) {
        struct text_buf source = {0}, got = {0};
        const json_t *text = json_object_get(line, "template");
        if (text) text_buf_append(&source, json_string_value(text), json_string_length(text));
        else append_parts(json_object_get(line, "parts"), &source);
        int rc = render(source.data, source.len, context, &got); /* that it ends at all is the suite's timeout's business */
        ck_assert_msg(rc < 0, "%s rendered '%.80s'", text_of(line, "name"), got.data);
        text_buf_clear(&source);
        text_buf_clear(&got);
        json_decref(line);
    }
    fixture_close(&f);
    free(context);
    close_inputs();
}
END_TEST

/* Beyond the fixtures' core: parts of the language that published templates use too. Jinja gave the expected texts. */
static const struct {
    const char *source, *text; /* text NULL: refused when loading */
} extras[] = {
    {"{% macro box(x) %}[{{ x }}{{ caller() }}]{% endmacro %}{% call box(1) %}in{% endcall %}", "[1in]"},
    {"{% macro each(l) %}{% for i in l %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) each([1, 2]) %}<{{ i }}>{% "
     "endcall %}",
     "<1><2>"},
    {"{% macro m(a, b, c=3) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(1, **{'b': 5, 'c': 6}) }}", "123156"},
    {"{% set x = [1]|tojson|safe %}{{ x }}{{ x + '<' }}{{ '<' ~ x }}{{ x is escaped }}", "[1][1]&lt;<[1]True"},
    {"{{ '<a>'|e }}{{ ('<a>'|e)|e }}{{ ('<'|e)[1:] }}", "&lt;a&gt;&lt;a&gt;lt;"},
    {"{% filter upper|trim %} a{{ 1 }} {% endfilter %}{% with x = 1, y = 2 %}{{ x + y }}{% endwith %}", "A13"},
    {"{{ [none, none]|sort }}{{ [{'a': 2}, {'a': 1}]|sort(attribute='a')|tojson }}", "[None, None][{\"a\": 1}, {\"a\": 2}]"},
    {"{{ ' a b c '.split(none, 1) }}{{ ' a b c '.split(' ', 2) }}", "['a', 'b c ']['', 'a', 'b c ']"},
    {"{% for i in [1, 2] %}{% continue %}{% else %}none{% endfor %}", "none"},
    {"{% for i in range(3) recursive %}{% endfor %}", NULL},
    {"{% include 'x' %}", NULL},
    {"{{ joiner() }}", NULL},
    {"{{ x|groupby('y') }}", NULL},
};

START_TEST(extras_render_as_in_jinja) {
    struct text_buf got = {0};
    int rc = render(extras[_i].source, strlen(extras[_i].source), "{}", &got);
    if (extras[_i].text) ck_assert_str_eq(got.data, extras[_i].text);
    else ck_assert_msg(rc == ERR_UNSUPPORTED && strstr(got.data, "line 1"), "%s", got.data);
    text_buf_clear(&got);
}
END_TEST

/* ---- from a checkpoint's files ---- */

static const char plain[] =
    "{\"chat_template\":\"{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ tools is none }}\",\"bos_token\":\"<s>\","
    "\"eos_token\":{\"content\":\"</s>\",\"lstrip\":false},\"pad_token\":null}";
static const char listed[] = "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"no\"},{\"name\":\"default\","
                             "\"template\":\"d{{ pad_token }}\"}]}";

static const struct {
    const char *config, *map, *file,
        *text; /* tokenizer_config.json, special_tokens_map.json, chat_template.jinja; NULL: absent */
    int rc;
} checkpoints[] = {
    {plain, NULL, NULL, "<s>hi</s>True", 0},
    {listed, NULL, NULL, "d", 0},
    {listed, "{\"pad_token\":\"<p>\"}", NULL, "d<p>", 0},
    {plain, "{\"eos_token\":\"<e>\"}", NULL, "<s>hi<e>True", 0}, /* the older file wins .. */
    {"{\"added_tokens_decoder\":{},\"eos_token\":\"<e>\"}", "{\"eos_token\":\"<f>\",\"pad_token\":\"<p>\"}",
     "{{ eos_token }}{{ pad_token }}", "<e>", 0}, /* .. until this key is there */
    {"{\"image_token\":\"<i>\",\"add_bos_token\":true,\"extra_special_tokens\":{\"end_of_turn\":\"<t>\"}}", NULL,
     "{{ image_token }}{{ end_of_turn }}{{ add_bos_token is defined }}", "<i><t>False", 0},
    {"{\"chat_template\":{\"tool_use\":\"no\",\"default\":\"yes\"}}", NULL, NULL, "yes", 0},
    {plain, NULL, "file{{ bos_token }}\n", "file<s>", 0}, /* the file of its own wins */
    {NULL, NULL, "alone", "alone", 0},
    {"{}", NULL, NULL, NULL, ERR_NOT_FOUND},
    {NULL, NULL, NULL, NULL, ERR_NOT_FOUND},
    {"{\"chat_template\":1}", NULL, NULL, NULL, ERR_INVALID},
    {"{\"chat_template\":[{\"name\":\"rag\",\"template\":\"x\"}]}", NULL, NULL, NULL, ERR_UNSUPPORTED},
    {"{\"chat_template\":\"{% frob %}\"}", NULL, NULL, NULL, ERR_UNSUPPORTED},
    {"{\"chat_template\":\"x\",\"bos_token\":5}", NULL, NULL, NULL, ERR_INVALID},
    {"{\"chat_template\":", NULL, NULL, NULL, ERR_INVALID},
};

START_TEST(checkpoints_bring_their_template) {
    struct scratch dir;
    struct chat_template *t = NULL;
    struct why why = {""};
    struct text_buf out = {0};
    struct chat_message m = {"user", "hi"};
    scratch_open(&dir);
    if (checkpoints[_i].config) scratch_text(&dir, "tokenizer_config.json", checkpoints[_i].config);
    if (checkpoints[_i].map) scratch_text(&dir, "special_tokens_map.json", checkpoints[_i].map);
    if (checkpoints[_i].file) scratch_text(&dir, "chat_template.jinja", checkpoints[_i].file);
    int rc = chat_template_open(dir.dir, &t, &why);
    ck_assert_msg(rc == checkpoints[_i].rc, "%s: %s", status_name(rc), why.text);
    if (rc == 0) {
        ck_assert_int_eq(chat_template_render(t, &m, 1, true, NOW, &out, &why), 0);
        ck_assert_str_eq(out.data, checkpoints[_i].text);
        chat_template_close(t);
        text_buf_clear(&out);
    } else {
        ck_assert(!t && strlen(why.text) > 10);
    }
    scratch_remove(&dir);
}
END_TEST

/* With a template for tools beside the default one, it serves requests that bring tools, even an empty list. */
START_TEST(tools_may_have_their_own_template) {
    static const char *const files[] = {
        "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"T{{ tools|length "
        "}}\"},{\"name\":\"default\",\"template\":\"D\"}]}",
        "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"{% frob %}\"},{\"name\":\"default\",\"template\":\"D\"}]}"};
    static const char *const cases[][2] = {
        {"{\"tools\":[1,2]}", "T2"}, {"{\"tools\":[]}", "T0"}, {"{\"tools\":null}", "D"}, {"{}", "D"}};
    struct scratch dir;
    struct chat_template *t = NULL;
    struct why why = {""};
    scratch_open(&dir);
    scratch_text(&dir, "tokenizer_config.json", files[0]);
    ck_assert_int_eq(chat_template_open(dir.dir, &t, &why), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct text_buf out = {0};
        ck_assert_int_eq(chat_template_render_json(t, cases[i][0], strlen(cases[i][0]), NOW, &out, &why), 0);
        ck_assert_str_eq(out.data, cases[i][1]);
        text_buf_clear(&out);
    }
    chat_template_close(t);
    scratch_text(&dir, "tokenizer_config.json", files[1]);
    ck_assert_int_eq(chat_template_open(dir.dir, &t, &why), ERR_UNSUPPORTED);
    ck_assert(strstr(why.text, "requests with tools"));
    scratch_remove(&dir);
}
END_TEST

/* Looking for a long text from the end takes no longer than from the start: at every place most of it fits. */
START_TEST(backward_searches_are_linear) {
    static const char source[] = "{% set a = 'a' * 4000000 %}{% set b = 'a' * 100000 + 'b' %}{{ a.rfind(b) }} {{ "
                                 "a.rsplit(b)|length }} {{ a.rpartition(b)[2]|length }} "
                                 "{{ (b + a).rfind(b) }}";
    struct chat_template *t;
    struct why why = {""};
    struct text_buf out = {0};
    ck_assert_int_eq(chat_template_compile(source, strlen(source), &t, &why), 0);
    int rc = chat_template_render_json(t, "{}", 2, NOW, &out, &why);
    ck_assert_msg(rc == 0, "%s", why.text);
    ck_assert_str_eq(out.data, "-1 1 4000000 0");
    text_buf_clear(&out);
    chat_template_close(t);
}
END_TEST

/* A message as large as a prompt may be passes through + and filters without quadratic cost or refusal. */
START_TEST(a_large_message_renders) {
    enum { SIZE = 10 << 20 };
    static const char source[] = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] | trim + '\\n' }}{% endfor %}";
    char *content = malloc(SIZE + 1);
    ck_assert_ptr_nonnull(content);
    memset(content, 'x', SIZE);
    content[SIZE] = '\0';
    struct chat_template *t;
    struct why why;
    struct text_buf out = {0};
    struct chat_message message = {"user", content};
    ck_assert_int_eq(chat_template_compile(source, strlen(source), &t, &why), 0);
    int rc = chat_template_render(t, &message, 1, true, NOW, &out, &why);
    ck_assert_msg(rc == 0, "%s", rc ? why.text : "");
    ck_assert_uint_eq(out.len, SIZE + 7);
    text_buf_clear(&out);
    chat_template_close(t);
    free(content);
}
END_TEST

int main(void) {
    TCase *c = tcase_create("fixtures");
    tcase_set_timeout(c, 100);
    tcase_add_test(c, published_templates_render_as_in_jinja);
    tcase_add_test(c, snippets_render_as_in_jinja);
    tcase_add_test(c, bad_templates_never_yield_a_prompt);
    tcase_add_loop_test(c, extras_render_as_in_jinja, 0, sizeof extras / sizeof *extras);
    tcase_add_loop_test(c, checkpoints_bring_their_template, 0, sizeof checkpoints / sizeof *checkpoints);
    tcase_add_test(c, tools_may_have_their_own_template);
    tcase_add_test(c, backward_searches_are_linear);
    tcase_add_test(c, a_large_message_renders);
    Suite *s = suite_create("chat_template");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
