/* windows.h - a text as tokens, for a model that reads it a window at a time. */
#pragma once
#include <stdint.h>

#include "model/text/tokenizer.h"

struct windows { /* init with {0} */
    struct token_list ids;
    int32_t begin; /* what the tokenizer puts before any text, and so before each window; -1: nothing */
};
/* The text in `file` ("-": standard input), by the tokenizer of the model in dir; at most max_tokens of it (0: all).
 * ERR_INVALID: it has less than two. */
int windows_read(struct windows *w, const char *verb, const char *dir, const char *file, int64_t max_tokens, struct why *why);
void windows_clear(struct windows *w);
int cli_cores(void); /* that this process may use */
