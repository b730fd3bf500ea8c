/* tokenizer.h - text <-> token ids, from tokenizer.json (Hugging Face format) and the tokens that the files beside it name, or,
 * where a checkpoint has none, from a SentencePiece model (tokenizer.model) or a tiktoken vocabulary (tiktoken.model,
 * *.tiktoken) with tokenizer_config.json beside it.
 *
 * Agrees exactly with the reference implementations (the packages tokenizers, sentencepiece, tiktoken) on everything it
 * accepts; a part it does not know (model type, normaliser, pre-tokeniser, decoder, pattern construct, the word pattern of a
 * tiktoken vocabulary) is refused at load, by name. Input is bytes:
 * broken UTF-8 is read the way a lossy decoder would (each maximal bad sequence becomes U+FFFD).
 * Immutable after open: any number of threads may encode, each with its own struct token_list; stream state is per caller. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct tokenizer;
int  tokenizer_open(const char *dir, struct tokenizer **out, struct why *why);
int  tokenizer_parse(const char *json, size_t len, struct tokenizer **out, struct why *why); /* tokenizer.json alone: fuzzing */
void tokenizer_close(struct tokenizer *t);

int  tokenizer_vocab(const struct tokenizer *t);                       /* largest id + 1 */
int32_t tokenizer_id(const struct tokenizer *t, const char *token);    /* by its content ("<|im_end|>"), or -1 */
/* The raw entry, e.g. for showing a token; NULL for a hole. bytes: what it stands for after byte-level decoding, may be cut
 * UTF-8. */
const char *tokenizer_token(const struct tokenizer *t, int32_t id, size_t *len);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);

struct token_list {        /* init with {0}; grows; clear with token_list_clear */
    int32_t *ids;
    int len, cap;
};
void token_list_clear(struct token_list *l);
/* Appends the ids of text[len]. add_special: apply the post-processor (bos ...). Special tokens written in the text are
 * recognised when parse_special, else encoded as plain text. Returns 0, ERR_NOMEM, or ERR_TOO_LARGE when more than max_tokens
 * would come out (decided early, so a 10 MB prompt costs no more than max_tokens worth of work plus one scan). */
int  tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool add_special, bool parse_special,
                      int max_tokens, struct token_list *out, struct why *why);

/* All at once. Appends to a growing buffer. */
struct text_buf { /* init with {0} */
    char *data;   /* NUL-terminated when not NULL */
    size_t len, cap;
};
void text_buf_clear(struct text_buf *b);
int  text_buf_append(struct text_buf *b, const char *s, size_t len); /* 0 or ERR_NOMEM */
int  tokenizer_decode(const struct tokenizer *t, const int32_t *ids, int n, bool skip_special, struct text_buf *out);

/* One stream of ids -> text pieces that are always whole UTF-8: bytes that may still become a character are held back. The
 * concatenation of all pieces and the flush equals tokenizer_decode of all ids, except that broken UTF-8 becomes U+FFFD in
 * both. */
struct detokenizer;
int  detokenizer_new(const struct tokenizer *t, bool skip_special, struct detokenizer **out);
void detokenizer_free(struct detokenizer *d);
int  detokenizer_push(struct detokenizer *d, int32_t id, struct text_buf *out); /* appends what became certain */
int  detokenizer_flush(struct detokenizer *d, struct text_buf *out);
