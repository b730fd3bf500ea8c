/* tiktoken.c - the lines into a vocabulary, and the families' word patterns. */
#include "model/text/tiktoken.h"

#include <stdlib.h>
#include <string.h>

#include "model/text/base64.h"
#include "model/text/byte_level.h"

static const char *const what = "the tiktoken vocabulary";

enum { MAX_TOKEN_BYTES = 4096 };

struct line {
    const char *text; /* base64 */
    size_t len;
    int64_t rank;
};

/* The next line that is not empty. 1, 0: the end, -1: not "BASE64 RANK". */
static int next_line(const char **at, const char *end, struct line *out) {
    while (*at < end && (**at == '\n' || **at == '\r')) ++*at;
    if (*at == end) return 0;
    const char *stop = memchr(*at, '\n', (size_t)(end - *at)), *s = *at;
    if (!stop) stop = end;
    *at = stop;
    const char *gap = memchr(s, ' ', (size_t)(stop - s));
    if (!gap || gap == s) return -1;
    *out = (struct line){s, (size_t)(gap - s), 0};
    if (stop[-1] == '\r') stop--;
    if (++gap == stop) return -1;
    for (; gap < stop; gap++) {
        if (*gap < '0' || *gap > '9' || out->rank >= VOCAB_MAX_ID) return -1;
        out->rank = out->rank * 10 + (*gap - '0');
    }
    return out->rank < VOCAB_MAX_ID ? 1 : -1;
}

static int put_line(const struct line *l, struct text_buf *text, struct vocab *v, int number, struct why *why) {
    char raw[MAX_TOKEN_BYTES * 3 / 4 + 4];
    int64_t n = l->len > MAX_TOKEN_BYTES ? -1 : base64_decode(l->text, l->len, raw);
    if (n <= 0)
        return fail(why, ERR_CORRUPT, "%s: line %d: '%.*s' is not base64 of 1 to %d bytes", what, number,
                    l->len > 60 ? 60 : (int)l->len, l->text, MAX_TOKEN_BYTES * 3 / 4);
    text->len = 0;
    if (byte_level_append(text, raw, (size_t)n) < 0) return fail(why, ERR_NOMEM, "%s: out of memory", what);
    if (vocab_id(v, text->data, text->len) >= 0 || vocab_put(v, (int32_t)l->rank, text->data, text->len, 0) < 0)
        return fail(why, ERR_CORRUPT, "%s: line %d: its token or its rank %lld is there twice", what, number,
                    (long long)l->rank);
    return 0;
}

int tiktoken_read(const char *bytes, size_t len, struct subword *out, struct why *why) {
    struct line l;
    int64_t top = -1;
    int n = 0, rc;
    size_t room = 0;
    for (const char *at = bytes; (rc = next_line(&at, bytes + len, &l)) == 1; n++) {
        if (l.rank > top) top = l.rank;
        room += l.len / 4 * 6; /* three bytes of two each */
    }
    if (rc < 0) return fail(why, ERR_CORRUPT, "%s: line %d is not 'BASE64 RANK'", what, n + 1);
    if (!n) return fail(why, ERR_CORRUPT, "%s is empty", what);
    struct text_buf text = {0};
    int32_t *rank = malloc((size_t)(top + 1) * sizeof *rank);
    rc = rank && vocab_open(&out->vocab, (size_t)n, room, (size_t)top + 1) == 0
             ? 0
             : fail(why, ERR_NOMEM, "%s: out of memory", what);
    n = 0;
    for (const char *at = bytes; rc == 0 && next_line(&at, bytes + len, &l) == 1;)
        rc = put_line(&l, &text, &out->vocab, ++n, why);
    for (int32_t i = 0; rc == 0 && i <= top; i++) rank[i] = out->vocab.tokens[i].s ? i : -1;
    out->kind = SUBWORD_BPE;
    out->bpe.unk = -2; /* a byte that is no token is an error, as it is for the reference */
    out->bpe.ignore_merges = true;
    if (rc == 0 && bpe_from_ranks(&out->vocab, rank, &out->bpe) < 0) rc = fail(why, ERR_NOMEM, "%s: out of memory", what);
    free(rank);
    text_buf_clear(&text);
    return rc;
}

/* ---- patterns ---- */

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define BLANKS       "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER        "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER        "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define NO_HAN       "&&[^\\p{Han}]"
#define LEAD         "[^\\r\\n\\p{L}\\p{N}]?"

static const char llama3[] = CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" BLANKS;
static const char cl100k[] =
    "'(?i:[sdmt]|ll|ve|re)|" LEAD "+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s++\\z|\\s*[\\r\\n]|\\s+(?!\\S)|\\s";
static const char qwen[] = CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" BLANKS;
static const char o200k[] = LEAD "[" UPPER "]*[" LOWER "]+" CONTRACTIONS "?|" LEAD "[" UPPER "]+[" LOWER "]*" CONTRACTIONS
                                 "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" BLANKS;
static const char kimi[] = "[\\p{Han}]+|" LEAD "[" UPPER NO_HAN "]*[" LOWER NO_HAN "]+" CONTRACTIONS "?|" LEAD "[" UPPER NO_HAN
                           "]+[" LOWER NO_HAN "]*" CONTRACTIONS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" BLANKS;

const char tiktoken_known[] = "kimi_k2, gpt_oss, llama4, llama, qwen";

static const struct {
    const char *key, *pattern;
    enum { MODEL_TYPE, CLASS, FILE_PART } of;
} patterns[] = {
    {"o200k", o200k, FILE_PART},        {"cl100k", cl100k, FILE_PART},   {"qwen.tiktoken", qwen, FILE_PART},
    {"TikTokenTokenizer", kimi, CLASS}, {"TikTokenV3", kimi, CLASS},     {"QWenTokenizer", qwen, CLASS},
    {"kimi_k2", kimi, MODEL_TYPE},      {"kimi_k25", kimi, MODEL_TYPE},  {"kimi_linear", kimi, MODEL_TYPE},
    {"gpt_oss", o200k, MODEL_TYPE},     {"llama4", o200k, MODEL_TYPE},   {"llama4_text", o200k, MODEL_TYPE},
    {"llama", llama3, MODEL_TYPE},      {"mllama", llama3, MODEL_TYPE},  {"qwen", qwen, MODEL_TYPE},
    {"qwen2", qwen, MODEL_TYPE},        {"qwen2_moe", qwen, MODEL_TYPE}, {"qwen3_moe", qwen, MODEL_TYPE},
};

const char *tiktoken_pattern(const char *model_type, const char *tokenizer_class, const char *file) {
    const char *const given[] = {model_type, tokenizer_class, file};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        const char *have = given[patterns[i].of];
        if (have && (patterns[i].of == FILE_PART ? strstr(have, patterns[i].key) != NULL : !strcmp(have, patterns[i].key)))
            return patterns[i].pattern;
    }
    return NULL;
}
