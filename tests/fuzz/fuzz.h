/* fuzz.h - what one fuzz target is: a function over bytes that must not crash, and the inputs it starts from.
 *
 * A target is one file, fuzz_NAME.c, with the two functions below. It is linked with driver.c, which mutates the seeds for
 * a bounded time with any compiler and is part of the test suite, or with LibFuzzer (meson setup -Dlibfuzzer=true with
 * clang), which adds coverage. A target keeps no state between inputs and treats every error as a good answer; what must
 * hold of an accepted input it checks with FUZZ_CHECK. */
#pragma once
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size); /* LibFuzzer's name; returns 0 */

typedef void (*fuzz_add)(const void *data, size_t size);
/* Calls add for each seed: a few valid inputs, small, covering every feature. The data is copied. */
void fuzz_seeds(fuzz_add add);

void fuzz_fail(const char *file, int line, const char *what); /* prints and aborts */
#define FUZZ_CHECK(condition) ((condition) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #condition))
