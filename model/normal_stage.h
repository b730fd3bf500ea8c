/* normal_stage.h - one stage of a normaliser, as read; shared by normalize.c (runs) and normalize_read.c (reads). */
#pragma once
#include "model/pattern.h"
#include "model/sentencepiece.h"
#include "model/unicode.h"

enum normal_kind {
    NORMAL_FORM,
    NORMAL_LOWERCASE,
    NORMAL_REPLACE,
    NORMAL_PREPEND,
    NORMAL_STRIP,
    NORMAL_STRIP_ACCENTS,
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
};
