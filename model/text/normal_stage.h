/* normal_stage.h - one stage of a normaliser, as read; shared by normalize.c (runs) and normalize_read.c (reads). */
#pragma once
#include "model/text/pattern.h"
#include "model/text/sentencepiece.h"
#include "model/text/unicode.h"

enum normal_kind {
    NORMAL_FORM,
    NORMAL_LOWERCASE,
    NORMAL_REPLACE,
    NORMAL_PREPEND,
    NORMAL_STRIP,
    NORMAL_STRIP_ACCENTS,
    NORMAL_STRIP_NONSPACING,
    NORMAL_CLEAN,
    NORMAL_SPACE_IDEOGRAPHS,
    NORMAL_NMT,
    NORMAL_MAP,
    NORMAL_BYTES,
    NORMAL_SENTENCEPIECE
};

struct normal_stage {
    enum normal_kind kind;
    enum unicode_form form;
    struct pattern *pattern; /* REPLACE */
    char *text;              /* REPLACE, PREPEND: what is put in */
    size_t text_len;
    bool left, right;        /* STRIP */
    struct spm_normal *spm;  /* SENTENCEPIECE */
    struct charsmap *map;    /* MAP */
};

enum { NORMAL_MAX_FORM = 3 };
/* normalize_chars.c: what a stage that looks at single characters makes of one: up to NORMAL_MAX_FORM characters. Returns how
 * many. */
int  normal_character(enum normal_kind kind, uint32_t cp, uint32_t form[NORMAL_MAX_FORM]);
