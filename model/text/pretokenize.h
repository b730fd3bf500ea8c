/* pretokenize.h - the pre-tokenisers of tokenizer.json: cutting normalised text into the words that the model merges.
 *
 * A pipeline of stages, run depth first: each piece a stage finds goes through all later stages before the next is looked for,
 * so that words come out in order, little memory is used, and whoever has enough stops the rest. Immutable after reading. */
#pragma once
#include <jansson.h>

#include "model/text/normalize.h"
#include "model/text/pattern.h"

struct pre_stage;
struct pretokenizer {
    struct pre_stage *stages;
    int n;
};
/* spec may be null; clear also after failure */
int  pretokenizer_read(const json_t *spec, struct pretokenizer *out, struct why *why);
void pretokenizer_clear(struct pretokenizer *p);

typedef int (*pre_word_fn)(void *user, const char *s, size_t len);
struct pre_work { /* of one thread; init with {0} and .user, .word */
    void *user;
    pre_word_fn word; /* a negative result ends the run */
    struct {
        struct pattern_scratch scratch;
        struct text_buf text, piece;
    } stage[PIPELINE_MAX_STAGES];
};
void pre_work_clear(struct pre_work *w);
/* origin: see normalize.h. 0, the negative result of `word`, ERR_NOMEM, or ERR_TOO_LARGE (a pattern's limits). */
int  pretokenizer_run(const struct pretokenizer *p, struct pre_work *w, const char *s, size_t len, size_t origin);
