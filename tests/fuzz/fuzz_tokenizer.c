/* fuzz_tokenizer.c - tokenizer.json, a NUL byte, and a text; or, behind a byte 2 and a length, a SentencePiece model or
 * tiktoken vocabulary, and a text: whatever is accepted must encode and decode without harm, to ids in
 * range, the stream must equal the whole, and a limit must hold. */
#include <stdlib.h>
#include <string.h>

#include "model/text/tokenizer_parts.h"
#include "model/text/utf8.h"
#include "tests/fuzz/fuzz.h"

static void check_decode(const struct tokenizer *t, const struct token_list *ids, bool skip) {
    struct text_buf whole = {0}, stream = {0};
    struct detokenizer *d;
    FUZZ_CHECK(tokenizer_decode(t, ids->ids, ids->len, skip, &whole) == 0);
    FUZZ_CHECK(detokenizer_new(t, skip, &d) == 0);
    for (int i = 0; i < ids->len; i++) {
        FUZZ_CHECK(detokenizer_push(d, ids->ids[i], &stream) == 0);
        FUZZ_CHECK(utf8_valid_prefix(stream.data, stream.len) == stream.len);
    }
    FUZZ_CHECK(detokenizer_flush(d, &stream) == 0);
    FUZZ_CHECK(stream.len == whole.len && (!whole.len || !memcmp(stream.data, whole.data, whole.len)));
    detokenizer_free(d);
    text_buf_clear(&whole);
    text_buf_clear(&stream);
}

static void check_encode(const struct tokenizer *t, const char *text, size_t len) {
    struct token_list ids = {0}, part = {0};
    struct why why;
    int rc = tokenizer_encode(t, text, len, true, true, 4096, &ids, &why);
    FUZZ_CHECK(rc == 0 || ids.len == 0);
    if (rc == 0) {
        for (int i = 0; i < ids.len; i++) FUZZ_CHECK(ids.ids[i] >= 0 && ids.ids[i] < 1 << 21);
        if (ids.len)
            FUZZ_CHECK(tokenizer_encode(t, text, len, true, true, ids.len - 1, &part, &why) == ERR_TOO_LARGE && part.len == 0);
        check_decode(t, &ids, false);
        check_decode(t, &ids, true);
    }
    token_list_clear(&ids);
    token_list_clear(&part);
}

static void check_all(struct tokenizer *t, const char *text, size_t len) {
    FUZZ_CHECK(tokenizer_vocab(t) > 0);
    check_encode(t, text, len);
    tokenizer_close(t);
}

/* u8 2, u16 length of the model, the model, the text. */
static void one_model(const char *data, size_t size) {
    struct tokenizer_hints hints = {.file = "o200k_base.tiktoken"};
    struct tokenizer *t = NULL;
    struct why why = {""};
    size_t len = size < 3 ? 0 : (unsigned char)data[1] | (size_t)(unsigned char)data[2] << 8;
    if (size < 3 || len > size - 3) return;
    char *model = malloc(len + 1); /* exactly as long, so that reading beyond shows */
    if (!model) return;
    memcpy(model, data + 3, len);
    int rc = tokenizer_from_model(model, len, &hints, &t, &why);
    free(model);
    if (rc < 0) FUZZ_CHECK(!t && strlen(why.text) > 10);
    else check_all(t, data + 3 + len, size - 3 - len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size && data[0] == 2) {
        one_model((const char *)data, size);
        return 0;
    }
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t len = nul ? (size_t)(nul - data) : size;
    struct tokenizer *t = NULL;
    struct why why = {""};
    if (tokenizer_parse((const char *)data, len, &t, &why) < 0) {
        FUZZ_CHECK(!t && strlen(why.text) > 10);
        return 0;
    }
    check_all(t, nul ? (const char *)nul + 1 : "", nul ? size - len - 1 : 0);
    return 0;
}

#define MODEL                                                                                                                  \
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"a\":0,\"b\":1,"     \
    "\"ab\":2,\"\xc4\xa0\":3,"                                                                                                 \
    "\"\xe2\x96\x81\":4,\"u\":5,\"<0xC3>\":6,\"<0xA9>\":7,\"\xc4\xa0\x61\":8},\"merges\":[\"a b\",[\"\xc4\xa0\",\"a\"]]}"
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}"

void fuzz_seeds(fuzz_add add) {
    static const char *const files[] = {
        "{" MODEL ",\"decoder\":null}",
        "{" MODEL
        ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},"
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s)|[^\\\\r\\\\n\\\\p{L}&&[^x]]?\\\\p{L}+|\\\\p{N}{1,3}+|\\\\s+(?!"
        "\\\\S)\"},\"behavior\":"
        "\"Isolated\",\"invert\":false}," BYTES "]},\"decoder\":" BYTES ",\"post_processor\":" BYTES "}",
        "{" MODEL ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Lowercase\"},{"
        "\"type\":\"StripAccents\"},"
        "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},{"
        "\"type\":\"Replace\","
        "\"pattern\":{\"String\":\" "
        "\"},\"content\":\"\xe2\x96\x81\"}]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
        "\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" "
        "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":"
        "\" \",\"start\":1,\"stop\":1},{\"type\":\"Replace\",\"pattern\":{\"String\":\"aab\"},\"content\":\"x\"}]}}",
        "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"first\","
        "\"split\":true},"
        "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"add_prefix_space\":true},\"added_tokens\":[{"
        "\"id\":9,\"content\":"
        "\"<s>\",\"special\":true,\"lstrip\":true,\"rstrip\":true,\"normalized\":false,\"single_word\":true},{\"id\":10,"
        "\"content\":\"  \"}],"
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{"
        "\"Sequence\":{\"id\":\"A\","
        "\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[9],\"tokens\":[\"<s>\"]}}}}",
    };
    static const char *const more[] = {
        "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"u\",0],[\"a\",-1.5],[\"ab\",-2],["
        "\"<0xC3>\",-3],[\"\xe2\x96\x81\",-2]]},"
        "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"DAAAAAAEAAAAAQAAYQAAAGIA\"},\"pre_tokenizer\":{"
        "\"type\":\"Metaspace\","
        "\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"always\"},\"decoder\":{\"type\":\"CTC\",\"pad_token\":\"a\","
        "\"word_delimiter_token\":\"|\",\"cleanup\":true}}",
        "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"u\",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_"
        "word\":9,\"vocab\":{\"u\":0,\"a\":1,\"##b\":2}},"
        "\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,\"strip_accents\":null,"
        "\"lowercase\":true},"
        "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":"
        "true}}",
        "{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</"
        "w>\",\"continuing_subword_prefix\":\"##\",\"byte_fallback\":true,\"vocab\":{\"a\":0,\"##b</w>\":1,\"ab</w>\":2},"
        "\"merges\":[\"a "
        "##b</"
        "w>\"]},\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":2},\"normalizer\":{\"type\":\"Nmt\"},\"decoder\":{"
        "\"type\":\"BPEDecoder\",\"suffix\":\"</w>\"}}",
    };
    static const char spm[] = "\x02\x39\x00\n\x09\n\x05<unk>\x18\x02\n\x08\n\x01"
                              "a\x15\x00\x00\x80\xbf\n\x05\n\x03\xe2\x96\x81\n\x06\n\x02"
                              "ab\x18\x04\x12\x05\x18\x02\x98\x02\x01\x1a\x0c\x12\x04\x00\x00\x00\x00\x18\x01 \x01(\x01";
    static const char tiktoken[] = "\x02\x15\x00YQ== 0\nYg== 1\nYWI= 2\n";
    static const char text[] = " ab aab 12 <s> a\xc3\xa9 It's \xff\xe2\x82 \xf0\x9f\x98\x80\n\n  <s>";
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char both[4096];
        size_t n = strlen(files[i]);
        memcpy(both, files[i], n + 1);
        memcpy(both + n + 1, text, sizeof text - 1);
        add(both, n + sizeof text);
    }
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        char both[4096];
        size_t n = strlen(more[i]);
        memcpy(both, more[i], n + 1);
        memcpy(both + n + 1, text, sizeof text - 1);
        add(both, n + sizeof text);
    }
    char both[400];
    memcpy(both, spm, sizeof spm - 1);
    memcpy(both + sizeof spm - 1, text, sizeof text - 1);
    add(both, sizeof spm + sizeof text - 2);
    memcpy(both, tiktoken, sizeof tiktoken - 1);
    memcpy(both + sizeof tiktoken - 1, text, sizeof text - 1);
    add(both, sizeof tiktoken + sizeof text - 2);
}
