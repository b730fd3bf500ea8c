/* corpus.h - seeds held in memory, and files read into it. For driver.c and libfuzzer.c. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { CORPUS_MAX = 1024, INPUT_MAX = 1 << 20 }; /* inputs; bytes of one */
struct input {
    uint8_t *data;
    size_t size;
};
struct corpus {
    struct input items[CORPUS_MAX];
    int n;
};
extern struct corpus corpus;

void corpus_add(const void *data, size_t size); /* copies, cut at INPUT_MAX; beyond CORPUS_MAX it is dropped */
int  corpus_add_file(const char *path);         /* 0 or -1 with errno */
void corpus_clear(void);
