/* fixture.h - reading test data of tests/fixtures: whole files, and little-endian records. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fixture {
    char *data;
    size_t len, at;
};
void fixture_open(struct fixture *f, const char *name); /* "tokenizer/strings"; the test program ends when it is missing */
void fixture_close(struct fixture *f);
bool fixture_end(const struct fixture *f);
uint32_t fixture_u16(struct fixture *f); /* these abort when the file ends early */
uint32_t fixture_u32(struct fixture *f);
const char *fixture_bytes(struct fixture *f, size_t n);
