/* normalize.h - the normalisers of tokenizer.json: text in, text out, before it is cut into words. Immutable after reading. */
#pragma once
#include <jansson.h>

#include "model/text/pattern.h"
#include "model/text/tokenizer.h"

enum { PIPELINE_MAX_STAGES = 64, PIPELINE_MAX_NESTING = 8 }; /* of any pipeline in tokenizer.json */

struct normal_stage;
struct spm_normal;
struct normalizer {
    struct normal_stage *stages;
    int n;
};
/* spec may be null; clear also after failure */
int  normalizer_read(const json_t *spec, struct normalizer *out, struct why *why);
/* One stage of a SentencePiece model's rules, which it takes over. clear also after failure. */
int  normalizer_sentencepiece(struct spm_normal *rules, struct normalizer *out, struct why *why);
void normalizer_clear(struct normalizer *n);

/* Two buffers that change places at each stage; init with {0}. origin: how many leading bytes of the text stem from the first
 * character of the whole input; word pipelines that mark only the start of a text need it. */
struct normal_work {
    struct text_buf text, spare;
    size_t origin;
    struct pattern_scratch scratch[PIPELINE_MAX_STAGES];
};
void normal_work_clear(struct normal_work *w);
/* w->text becomes the normal form of s. 0, ERR_NOMEM, ERR_TOO_LARGE (a pattern's limits). */
int  normalizer_run(const struct normalizer *n, struct normal_work *w, const char *s, size_t len, size_t origin);
