/* tokenizer_parts.h - what detokenizer.c needs to know of a tokenizer. */
#pragma once
#include "model/decoder.h"
#include "model/tokenizer.h"

/* The text that goes into the decoder for this id; NULL: nothing does (no such id, or special and skipped). */
const char *tokenizer_decoded(const struct tokenizer *t, int32_t id, bool skip_special, size_t *len);
const struct decoder *tokenizer_decoder(const struct tokenizer *t);
