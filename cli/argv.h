/* argv.h - a command line for another program, put together word by word. Texts are borrowed; numbers live inside, so it must
 * not be copied. */
#pragma once
#include <stdint.h>

enum { ARGV_WORDS = 64, ARGV_NUMBERS = 16 };
struct argv {
    char *words[ARGV_WORDS]; /* ends with NULL */
    char numbers[ARGV_NUMBERS][24];
    int n, n_numbers;
};
void argv_add(struct argv *a, const char *word);
void argv_add_text(struct argv *a, const char *name, const char *value); /* nothing when value is NULL */
void argv_add_number(struct argv *a, const char *name, int64_t value);   /* nothing when it is negative: not given */
