/* vocab.h - a vocabulary: token texts by id and ids by text. Shared by every kind of subword model. Immutable once filled. */
#pragma once
#include <jansson.h>

#include "model/text/tokenizer.h"

enum { VOCAB_MAX_ID = 1 << 21 }; /* ids are below */

struct vocab_token {
    const char *s; /* NUL-terminated, may hold NULs; NULL: no token has this id */
    uint32_t len;
};
struct vocab {
    struct vocab_token *tokens;    /* [size] by id */
    int size;                      /* largest id + 1 */
    int count;                     /* tokens, without holes */
    int longest;                   /* bytes of the longest token, at least 1 */
    int32_t *by_text;              /* open addressing, text_mask + 1 slots: id or -1 */
    uint32_t text_mask;
    char *text;                    /* the tokens' bytes */
    size_t used, room;             /* of text */
};

/* Room for `count` tokens of together `bytes` bytes, with ids below `size`. vocab_clear also after a failure. */
int  vocab_open(struct vocab *v, size_t count, size_t bytes, size_t size);
void vocab_clear(struct vocab *v);
/* Copies the text in, `nul` (0: none) becoming NUL. 0; ERR_EXISTS when the id is taken. Of equal texts the last id is found. */
int  vocab_put(struct vocab *v, int32_t id, const char *s, size_t len, unsigned nul);
/* From {"text": id, ...}. nul: the code point that stands for NUL in the keys, 0 when none does. */
int  vocab_read(const json_t *object, unsigned nul, struct vocab *v, struct why *why);
int32_t vocab_id(const struct vocab *v, const char *s, size_t len); /* or -1 */
void vocab_byte_ids(const struct vocab *v, int32_t ids[256]);       /* of "<0x00>" ..., or -1 */

/* A table size for n entries of an open-addressing table at half load, less one. */
uint32_t vocab_table_mask(size_t n);
int  token_list_add(struct token_list *l, int32_t id); /* 0 or ERR_NOMEM */
