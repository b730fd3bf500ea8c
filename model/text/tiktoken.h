/* tiktoken.h - vocabularies as tiktoken stores them: lines of "BASE64 RANK". The rank of a token is its id, and the order of
 * merging.
 *
 * Such a file says nothing of how text is cut into words; that pattern comes with the program that made the model, so it is
 * known here by family. */
#pragma once
#include "model/text/subword.h"

/* Fills *out with a byte-level BPE model (tokens in the byte-level alphabet). Zero *out first; subword_clear also after
 * failure. */
int  tiktoken_read(const char *bytes, size_t len, struct subword *out, struct why *why);
/* The word pattern of a checkpoint by its model_type, its tokenizer_class or its vocabulary's file name (each may be NULL), or
 * NULL: none is known for these. */
const char *tiktoken_pattern(const char *model_type, const char *tokenizer_class, const char *file);
extern const char tiktoken_known[]; /* the model types tiktoken_pattern knows, for messages */
