/* fixture.c - fixtures are part of the source, so a missing or short one is a fault of the tree: abort. */
#include "tests/unit/model/fixture.h"

#include <stdio.h>
#include <stdlib.h>

void fixture_open(struct fixture *f, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", FIXTURES, name);
    *f = (struct fixture){0};
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "%s is missing\n", path);
        abort();
    }
    if (fseek(file, 0, SEEK_END) == 0) f->len = (size_t)ftell(file);
    rewind(file);
    f->data = malloc(f->len + 1);
    if (!f->data || fread(f->data, 1, f->len, file) != f->len) abort();
    f->data[f->len] = '\0';
    fclose(file);
}

void fixture_close(struct fixture *f) {
    free(f->data);
    *f = (struct fixture){0};
}

bool fixture_end(const struct fixture *f) { return f->at == f->len; }

const char *fixture_bytes(struct fixture *f, size_t n) {
    if (f->len - f->at < n) {
        fprintf(stderr, "fixture ends early\n");
        abort();
    }
    f->at += n;
    return f->data + f->at - n;
}

uint32_t fixture_u16(struct fixture *f) {
    const unsigned char *p = (const unsigned char *)fixture_bytes(f, 2);
    return p[0] | (uint32_t)p[1] << 8;
}

uint32_t fixture_u32(struct fixture *f) {
    uint32_t low = fixture_u16(f);
    return low | fixture_u16(f) << 16;
}
