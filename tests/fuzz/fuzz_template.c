/* fuzz_template.c - a chat template, a NUL byte, and its variables as JSON: compiling and rendering must end, in bounds. */
#include <string.h>

#include "model/chat/chat_template.h"
#include "tests/fuzz/fuzz.h"

static const char variables[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"be "
    "brief\"},{\"role\":\"user\",\"content\":\"h\\u00e9llo\\n\"},{\"role\":\"assistant\",\"content\":"
    "null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1.5,\"y\":[true,{}]}}}]}],\"tools\":[{\"name\":"
    "\"t\"}],\"n\":3,\"f\":2.5,"
    "\"s\":\" a-b c \",\"add_generation_prompt\":true,\"bos_token\":\"<s>\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t len = nul ? (size_t)(nul - data) : size;
    struct chat_template *t = NULL;
    struct text_buf out = {0};
    struct why why = {""};
    if (chat_template_compile((const char *)data, len, &t, &why) < 0) {
        FUZZ_CHECK(!t && strlen(why.text) > 10);
        return 0;
    }
    bool own = nul && size - len > 2;
    int rc = chat_template_render_json(t, own ? (const char *)nul + 1 : variables, own ? size - len - 1 : sizeof variables - 1,
                                       1741503902, &out, &why);
    FUZZ_CHECK(rc == 0 ? out.len <= 16 << 20 : out.len == 0);
    struct chat_message m = {"user", "hi"};
    rc = chat_template_render(t, &m, 1, true, 0, &out, &why);
    FUZZ_CHECK(out.len <= 32 << 20);
    text_buf_clear(&out);
    chat_template_close(t);
    return 0;
}

void fuzz_seeds(fuzz_add add) {
    static const char *const seeds[] = {
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
        "'<|im_start|>system\\nX<|im_end|>\\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if "
        "add_generation_prompt %}"
        "{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "{%- set ns = namespace(a=0, b='x') -%}\n{%- for m in messages[1:] if m.content is string -%}\n  {%- set ns.a = ns.a + "
        "loop.index0 * 2 // 1 -%}\n"
        "  {{- m.content | trim | upper ~ loop.previtem.role -}}{% if loop.last %}{% break %}{% else %}{% continue %}{% endif "
        "%}\n{%- endfor -%}{{ ns.a }}",
        "{% macro call(c, i=2) %}{{ c.function.arguments | tojson(indent=i) }}{% endmacro %}{% for m in messages %}{% for c in "
        "m.tool_calls or [] %}"
        "{{ call(c) }}{{ call(c, i=none) }}{% endfor %}{% endfor %}{# c #}{% raw %}{{ x }}{% endraw %}",
        "{{ s.strip().split('-') | join(', ') }}{{ s[::-1] }}{{ s[1:3] }}{{ [n, f, -n ** 2, n % 2, n / 2] }}{{ {'a': (1,), "
        "'b': none}.items() | list }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first | default('none', true) }}"
        "{{ 'yes' if n > 2 and not f is none else 'no' }}{{ range(1, 9, 3) | list | sum }}{{ messages | map('length') | list | "
        "sort(reverse=true) }}",
        "{% set x %}a{% endset %}{% filter title %}{{ x }} b{% endfilter %}{% with y = 1, z = 'q' %}{{ y ~ z }}{% endwith %}{% "
        "generation %}g{% endgeneration %}"
        "{{ strftime_now('%Y-%m-%d') }}{% if n == 4 %}{{ raise_exception('no ' ~ n) }}{% elif 'k' in {'k': 1} %}in{% endif "
        "%}{{ s | replace('a', 'bb') | indent(2, true) }}",
    };
    static const char with_variables[] = "{{ n }}{{ m.x }}\0{\"n\": 1, \"m\": {\"x\": \"\\u0000\"}}";
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) add(seeds[i], strlen(seeds[i]));
    add(with_variables, sizeof with_variables - 1);
}
