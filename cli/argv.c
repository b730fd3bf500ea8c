/* argv.c - see argv.h. */
#include "cli/argv.h"

#include <stdio.h>

#include "base/log.h"

void argv_add(struct argv *a, const char *word) {
    if (a->n >= ARGV_WORDS - 1) BUG("a command line of more than %d words", ARGV_WORDS - 1);
    a->words[a->n++] = (char *)word;
}

void argv_add_text(struct argv *a, const char *name, const char *value) {
    if (!value) return;
    argv_add(a, name);
    argv_add(a, value);
}

void argv_add_number(struct argv *a, const char *name, int64_t value) {
    if (value < 0) return;
    if (a->n_numbers >= ARGV_NUMBERS) BUG("a command line of more than %d numbers", ARGV_NUMBERS);
    char *text = a->numbers[a->n_numbers++];
    snprintf(text, sizeof a->numbers[0], "%lld", (long long)value);
    argv_add_text(a, name, text);
}
