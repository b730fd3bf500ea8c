/* libfuzzer.c - hands the target's seeds to LibFuzzer, which would want them as files: its mutator now and then begins
 * with a seed instead of the input it was given, and so every feature is in the corpus within the first seconds. */
#include <string.h>

#include "base/hash.h"
#include "tests/fuzz/corpus.h"
#include "tests/fuzz/fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    if (!corpus.n) fuzz_seeds(corpus_add);
    if (corpus.n && (size <= 1 || seed % 64 == 0)) {
        const struct input *in = &corpus.items[hash_u64(seed) % (uint64_t)corpus.n];
        size = in->size < max_size ? in->size : max_size;
        memcpy(data, in->data, size);
        if (seed % 128 == 0) return size;
    }
    return LLVMFuzzerMutate(data, size, max_size);
}
