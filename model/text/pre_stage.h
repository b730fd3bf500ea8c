/* pre_stage.h - one stage of a word pipeline, as read; shared by pretokenize.c (runs) and pretokenize_read.c (reads). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "model/text/pattern.h"

enum pre_kind { PRE_SPLIT, PRE_CLASS, PRE_BYTES, PRE_METASPACE, PRE_FIXED };
/* What becomes of a match, "-" in "the-final--countdown":
 * the - final - - countdown | the final countdown | the - final -- countdown | the- final- - countdown | the -final -
 * -countdown */
enum pre_behaviour { PRE_ISOLATED, PRE_REMOVED, PRE_CONTIGUOUS, PRE_WITH_PREVIOUS, PRE_WITH_NEXT };
enum pre_class { PRE_NUMERIC, PRE_PUNCT, PRE_SPACE, PRE_CHAR };
enum pre_scheme { PRE_ALWAYS, PRE_FIRST, PRE_NEVER };

struct pre_stage {
    enum pre_kind kind;
    enum pre_behaviour behaviour; /* PRE_SPLIT, PRE_CLASS */
    bool invert;                  /* PRE_SPLIT: matches are what stays */
    struct pattern *pattern;      /* PRE_SPLIT; PRE_BYTES with GPT-2's pattern, else NULL */
    enum pre_class class;
    bool add_prefix_space;        /* PRE_BYTES */
    uint32_t ch;                  /* PRE_CHAR, PRE_METASPACE */
    char mark[4];                 /* PRE_METASPACE: ch in UTF-8 */
    size_t mark_len;
    enum pre_scheme scheme;
    bool split;
    int64_t chars;                /* PRE_FIXED */
};
