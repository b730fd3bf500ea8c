/* test_text_nomem.c - memory runs out at the n-th allocation, for every n until none is left to fail: reading a tokenizer,
 * encoding, decoding, compiling and rendering a template answer ERR_NOMEM and leak nothing (a sanitizer build checks that).
 *
 * The linker routes allocations of Cadre's libraries through __wrap_*; those of jansson, PCRE2 and utf8proc are their own. */
#include <stdlib.h>
#include <string.h>

#include "model/chat/chat_template.h"
#include "model/text/tokenizer_parts.h"

#include "tests/unit/failing.h"

#include <check.h> /* last: it has a macro called fail */

static const char json[] =
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\xe2\x96\x81\":3,\"\xe2\x96\x81\x61\":4},\"merges\":["
    "\"a b\",\"\xe2\x96\x81 a\"]},"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":"
    "\" +\"},\"content\":"
    "\"\xe2\x96\x81\"},{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"}]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":"
    "{\"String\":\"b\"},\"behavior\":"
    "\"Contiguous\"},\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true,\"single_word\":true},{\"id\":6,"
    "\"content\":\"a  b\"}],\"decoder\":"
    "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" "
    "\"},{\"type\":\"ByteFallback\"},"
    "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" "
    "\",\"start\":1,\"stop\":0}]},\"post_processor\":{\"type\":\"RobertaProcessing\",\"sep\":[\"<s>\",5],"
    "\"cls\":[\"<s>\",5]}}";
static const char unigram[] =
    "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"u\",0],[\"a\",-1.5],[\"aa\",-2],["
    "\"\xe2\x96\x81\",-2]]},"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Precompiled\",\"precompiled_charsmap\":"
    "\"DAAAAAAEAAAAAQAAYQAAAGIA\"},{"
    "\"type\":\"BertNormalizer\"}]},\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_"
    "scheme\":\"always\"},"
    "\"decoder\":{\"type\":\"CTC\",\"pad_token\":\"<pad>\",\"word_delimiter_token\":\"|\",\"cleanup\":true}}";
static const char wordpiece[] =
    "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"a\":1,\"##a\":2}},\"pre_tokenizer\":{\"type\":"
    "\"BertPreTokenizer\"},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"WordPiece\"},{\"type\":\"BPEDecoder\"}]"
    "}}";
static const char marked[] =
    "{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"continuing_subword_prefix\":\"#\",\"vocab\":{\"a\":0,\"#a</"
    "w>\":1,"
    "\"aa</w>\":2},\"merges\":[\"a #a</w>\"]},\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":2}}";
static const char spm[] = "\n\x09\n\x05<unk>\x18\x02\n\x08\n\x01"
                          "a\x15\x00\x00\x80\xbf\n\x05\n\x03\xe2\x96\x81\n\x06\n\x02"
                          "ab\x18\x04\x12\x05\x18\x02\x98\x02\x01\x1a\x0c\x12\x04\x00\x00\x00\x00\x18\x01 \x01(\x01";
static const char spm_unigram[] = "\n\x09\n\x05<unk>\x18\x02\n\x08\n\x01"
                                  "a\x15\x00\x00\x80\xbf\x12\x02\x18\x01";
static const char tiktoken[] = "YQ== 0\nYg== 1\nYWE= 2\n";
static const struct {
    const char *bytes;
    size_t len;
    bool model;
} sources[] = {
    {json, sizeof json - 1, false},       {unigram, sizeof unigram - 1, false}, {wordpiece, sizeof wordpiece - 1, false},
    {marked, sizeof marked - 1, false},   {spm, sizeof spm - 1, true},          {spm_unigram, sizeof spm_unigram - 1, true},
    {tiktoken, sizeof tiktoken - 1, true}};
enum { SOURCES = sizeof sources / sizeof *sources };

static const char template[] =
    "{% macro m(x) %}[{{ x }}]{% endmacro %}{% set ns = namespace(n=0) %}{% for c in messages %}{% set ns.n = ns.n + 1 %}{{ "
    "m(c.content | trim ~ ns.n) }}"
    "{{ c | tojson(indent=1) }}{{ c.content.split(',') | map('upper') | join('+') }}{% endfor %}{{ [1, 'a', {'k': (2.5,)}] }}";

/* Neither may call Check while allocations fail: it allocates too. */
static int use_tokenizer(int i, struct why *why) {
    char text[200];
    struct tokenizer *t;
    struct token_list ids = {0};
    struct text_buf out = {0};
    memset(text, 'a', sizeof text); /* long enough for the heap of pairs */
    if (sources[i].bytes != tiktoken) memcpy(text, "<s> a  b \xff e\xcc\x81 ", 15); /* all its bytes are a and b */
    static const struct tokenizer_hints hints = {.file = "o200k_base.tiktoken"};
    int rc = sources[i].model ? tokenizer_from_model(sources[i].bytes, sources[i].len, &hints, &t, why)
                              : tokenizer_parse(sources[i].bytes, sources[i].len, &t, why);
    if (rc < 0) return rc;
    rc = tokenizer_encode(t, text, sizeof text, true, true, 1000, &ids, why);
    if (rc == 0) rc = tokenizer_decode(t, ids.ids, ids.len, false, &out);
    token_list_clear(&ids);
    text_buf_clear(&out);
    tokenizer_close(t);
    return rc;
}

static int use_template(struct why *why) {
    struct chat_template *t;
    struct text_buf out = {0};
    struct chat_message m[2] = {{"user", "one,two"}, {"assistant", " three "}};
    int rc = chat_template_compile(template, sizeof template - 1, &t, why);
    if (rc < 0) return rc;
    rc = chat_template_render(t, m, 2, true, 0, &out, why);
    text_buf_clear(&out);
    chat_template_close(t);
    return rc;
}

START_TEST(every_allocation) {
    long n = 0;
    for (bool failed = true; failed; n++) {
        struct why why = {""};
        left = n;
        int rc = _i == SOURCES ? use_template(&why) : use_tokenizer(_i, &why);
        failed = left < 0;
        left = -1;
        ck_assert_msg(rc == (failed ? ERR_NOMEM : 0), "allocation %ld: %s: %s", n, status_name(rc), why.text);
    }
    ck_assert_int_gt(n, 20);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("text_nomem");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, every_allocation, 0, SOURCES + 1); /* tokenizers; a template */
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
