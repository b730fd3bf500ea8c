/* names.h - the checkpoints there are: every directory of tests/golden/data that has reference logits, in order of name, so
 * that a new one is tested by being there. */
#pragma once
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"

enum { NAMES_MAX = 128, NAMES_BYTES = 64 };
struct names {
    int count;
    char name[NAMES_MAX][NAMES_BYTES];
};

/* Dies when there is none: an empty list would pass every test. */
static inline void names_read(const char *data_dir, struct names *out) {
    struct dirent **entries;
    int n = scandir(data_dir, &entries, NULL, alphasort);
    out->count = 0;
    for (int i = 0; i < n; i++) {
        char path[1200];
        snprintf(path, sizeof path, "%s/%s/logits.safetensors", data_dir, entries[i]->d_name);
        if (access(path, R_OK) == 0) {
            if (out->count == NAMES_MAX) die("%s has more than %d checkpoints", data_dir, NAMES_MAX);
            snprintf(out->name[out->count++], NAMES_BYTES, "%.*s", NAMES_BYTES - 1, entries[i]->d_name);
        }
        free(entries[i]);
    }
    if (n >= 0) free(entries);
    if (!out->count) die("%s has no checkpoints with logits.safetensors", data_dir);
}
