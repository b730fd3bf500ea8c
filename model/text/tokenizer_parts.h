/* tokenizer_parts.h - what the files around tokenizer.c need to know of a tokenizer. */
#pragma once
#include <jansson.h>

#include "model/text/decoder.h"
#include "model/text/normalize.h"
#include "model/text/slices.h"
#include "model/text/subword.h"
#include "model/text/tokenizer.h"

/* The text that goes into the decoder for this id; NULL: nothing does (no such id, or special and skipped). */
const char *tokenizer_decoded(const struct tokenizer *t, int32_t id, bool skip_special, size_t *len);
const struct decoder *tokenizer_decoder(const struct tokenizer *t);

/* A tokenizer from a model and a normaliser that are there already, both taken over even on failure (and zeroed). rest:
 * tokenizer.json's "pre_tokenizer", "decoder", "added_tokens" and "post_processor", as far as they are there; added tokens keep
 * the ids of the list. limits: of what stands between added tokens;
 * with them the pre-tokeniser may not ask where a text begins. {0}: none. */
int  tokenizer_assemble(struct subword *model, struct normalizer *normalizer, const json_t *rest, struct slice_limits limits,
                        struct tokenizer **out, struct why *why);

/* tokenizer_files.c: what else a checkpoint has, and one without tokenizer.json. */
struct tokenizer_hints { /* other files of the checkpoint; any may be NULL */
    json_t *config;          /* config.json */
    json_t *tokenizer;       /* tokenizer_config.json */
    json_t *added;           /* added_tokens.json */
    json_t *map;             /* special_tokens_map.json */
    const char *file;              /* the vocabulary's file name, without folders */
};
/* bytes: a SentencePiece model or a tiktoken vocabulary. */
int tokenizer_from_model(const char *bytes, size_t len, const struct tokenizer_hints *hints, struct tokenizer **out,
                         struct why *why);
/* The hints' files in dir; hints->file stays as it is. Clear also after a failure. */
int  tokenizer_hints_open(const char *dir, struct tokenizer_hints *hints, struct why *why);
void tokenizer_hints_clear(struct tokenizer_hints *hints);
/* tokenizer_config.json with the names that special_tokens_map.json replaces, as long as it has no "added_tokens_decoder";
 * either may be NULL. The caller's to release; NULL: out of memory. */
json_t *tokenizer_named_config(const json_t *config, const json_t *map);
bool tokenizer_standard_name(const char *name); /* "bos_token" and its six kin */
/* root: tokenizer.json, whose "added_tokens" takes up what the other files name. tokenizer_named.c */
int  tokenizer_add_named(json_t *root, const struct vocab *vocab, const struct tokenizer_hints *hints, struct why *why);
/* ERR_NOT_FOUND: none of the known files */
int  tokenizer_open_files(const char *dir, struct tokenizer **out, struct why *why);
