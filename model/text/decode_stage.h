/* decode_stage.h - one stage of a decoder, as read, and its state in a run; shared by decoder.c (runs), decoder_words.c (runs
 * those that put words together) and decoder_read.c (reads). */
#pragma once
#include <stdbool.h>

#include "model/text/decoder.h"
#include "model/text/utf8.h"

enum decode_kind {
    DECODE_BYTES,
    DECODE_FUSE,
    DECODE_FALLBACK,
    DECODE_REPLACE,
    DECODE_STRIP,
    DECODE_METASPACE,
    DECODE_SPACED,
    DECODE_WORDPIECE,
    DECODE_SUFFIX,
    DECODE_CTC
};

struct decode_stage {
    enum decode_kind kind;
    bool joined;             /* the input is one string in chunks */
    struct pattern *pattern; /* REPLACE of single strings */
    char *find, *put; /* REPLACE: find NULL for a regular expression; WORDPIECE: prefix; SUFFIX; CTC: padding, delimiter */
    size_t find_len, put_len;
    uint32_t *fail;     /* [find_len + 1] DECODE_REPLACE when joined: longest border of each prefix of find */
    uint32_t ch;        /* STRIP, METASPACE */
    size_t start, stop; /* STRIP */
    bool cleanup;       /* WORDPIECE, CTC: blanks before punctuation go */
    bool drop_first;    /* METASPACE: marks of the first string vanish */
};
struct decode_state {
    struct utf8_stream utf8;
    struct text_buf text, before; /* before: CTC's last token */
    struct pattern_scratch scratch;
    size_t count; /* strings seen; for a joined STRIP characters stripped; for a joined REPLACE bytes of find held */
    size_t held;  /* joined STRIP: trailing characters that may have to go */
    bool past;    /* joined STRIP: beyond the leading characters */
};
struct decode_run {
    const struct decoder *d;
    struct text_buf *out;
    struct decode_state *state; /* [d->n] */
};

/* Passes a string (of a joined stage: a chunk) on to stage k; k == d->n: to the output. */
int decode_feed(struct decode_run *r, int k, const char *s, size_t len);
int decode_words(struct decode_run *r, int k, const char *s, size_t len); /* the stages WORDPIECE, SUFFIX, CTC */
int decode_words_end(struct decode_run *r, int k);
