/* corpus.c - one static list: a fuzz program has one target and one thread. */
#include "tests/fuzz/corpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

struct corpus corpus;

void corpus_add(const void *data, size_t size) {
    if (corpus.n == CORPUS_MAX) return;
    if (size > INPUT_MAX) size = INPUT_MAX;
    uint8_t *copy = malloc(size + 1);
    if (!copy) abort();
    if (size) memcpy(copy, data, size);
    corpus.items[corpus.n++] = (struct input){copy, size};
}

int corpus_add_file(const char *path) {
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    uint8_t *buf = malloc(INPUT_MAX);
    if (!buf) abort();
    corpus_add(buf, fread(buf, 1, INPUT_MAX, f));
    free(buf);
    fclose(f);
    return 0;
}

void corpus_clear(void) {
    for (int i = 0; i < corpus.n; i++) free(corpus.items[i].data);
    corpus.n = 0;
}

void fuzz_fail(const char *file, int line, const char *what) {
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}
