/* decoder.h - the decoders of tokenizer.json, as a stream: token texts in, well-formed UTF-8 out as soon as it is certain. */
#pragma once
#include <jansson.h>

#include "model/text/pattern.h"
#include "model/text/tokenizer.h"

struct decode_stage;
struct decoder { /* immutable after reading */
    struct decode_stage *stages;
    int n;
};
int  decoder_read(const json_t *spec, struct decoder *out, struct why *why); /* spec may be null; clear also after failure */
void decoder_clear(struct decoder *d);

struct decode_run; /* one stream's state */
struct decode_run *decode_run_new(const struct decoder *d);
void decode_run_free(struct decode_run *r);
/* 0, ERR_NOMEM, ERR_TOO_LARGE */
int  decode_run_push(struct decode_run *r, const char *token, size_t len, struct text_buf *out);
int  decode_run_flush(struct decode_run *r, struct text_buf *out); /* the end of the stream; the run starts afresh */
