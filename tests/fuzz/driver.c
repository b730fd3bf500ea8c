/* driver.c - a fuzzer without coverage, for the test suite: the same inputs in the same order on every run and machine.
 *
 *   fuzz_NAME [--seconds N] [--seed N] [--iterations N] [--only I] [FILE...]
 *
 * The target's seeds and the files are the corpus. First each of them as it is, and cut at every length; then mutations of
 * them, numbered from 0: input I depends on the corpus, the seed and I alone, so a failure is repeated with --only I. An
 * input that crashes, or takes longer than 20 s, is written to ./fuzz_NAME.crash, which can be given as FILE. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "tests/fuzz/corpus.h"
#include "tests/fuzz/fuzz.h"

enum { HANG_SECONDS = 20, MAX_CUTS = 1 << 12 };

/* What the signal handlers need: the input under test and where it came from. */
static struct {
    uint8_t data[INPUT_MAX];
    size_t size;
    char crash_path[256];
    char origin[64]; /* "--only 17" or "seed 3 cut at 5" */
} now;

static void say(const char *s) {
    ssize_t n = write(STDERR_FILENO, s, strlen(s));
    (void)n;
}

/* Async-signal-safe: only open, write, close, strlen. */
static void save_input(void) {
    const char *path = now.crash_path;
    say("\nfailing input: ");
    say(now.origin);
    say(", written to ");
    say(path);
    say("\n");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return;
    ssize_t n = write(fd, now.data, now.size);
    (void)n;
    close(fd);
}

static void on_signal(int sig) {
    if (sig == SIGALRM) say("the target takes too long\n");
    save_input();
    signal(sig == SIGALRM ? SIGABRT : sig, SIG_DFL);
    raise(sig == SIGALRM ? SIGABRT : sig);
}

/* With a sanitizer linked in, it owns the signals and calls this instead. */
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

static void catch_crashes(void) {
    const int fatal[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    signal(SIGALRM, on_signal);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(save_input);
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        if (!__sanitizer_set_death_callback || fatal[i] == SIGABRT) signal(fatal[i], on_signal);
}

static void test_now(void) {
    const struct itimerval limit = {.it_value.tv_sec = HANG_SECONDS}, off = {0};
    /* An exact copy on the heap, so that a sanitizer sees one byte too far. */
    uint8_t *copy = malloc(now.size ? now.size : 1);
    if (!copy) abort();
    memcpy(copy, now.data, now.size);
    setitimer(ITIMER_REAL, &limit, NULL);
    LLVMFuzzerTestOneInput(copy, now.size);
    setitimer(ITIMER_REAL, &off, NULL);
    free(copy);
}

/* ---- mutations ---- */

struct dice {
    uint64_t state;
};
static uint64_t roll(struct dice *d, uint64_t n) { return n ? hash_u64(d->state += 0x9e3779b97f4a7c15u) % n : 0; }

/* Replaces now.data[at .. at + old) by size bytes. */
static void replace(size_t at, size_t old, const void *bytes, size_t size) {
    if (now.size - old + size > INPUT_MAX) return;
    memmove(now.data + at + size, now.data + at + old, now.size - at - old);
    if (size) memcpy(now.data + at, bytes, size);
    now.size = now.size - old + size;
}

static const char *const words[] = {
    "0", "-1", "1e999", "1e-999", "9223372036854775807", "-9223372036854775808", "18446744073709551616", "4294967296",
    "2147483648", "65536", "null", "true", "false", "{}", "[]", "\"\"", "[[[[[[[[", "{\"a\":", "\\u0000", "\\ud800", "\xff",
    "\xc3", "\xf0\x9f\x98\x80", "\"__metadata__\":", "../", "/", "%s%n", "\r\n", "\t",
};

static void put_word(struct dice *d, size_t at) {
    const char *w = words[roll(d, sizeof words / sizeof *words)];
    size_t old = roll(d, 2) ? strlen(w) : 0;
    replace(at, old > now.size - at ? now.size - at : old, w, strlen(w));
}

/* Replaces the number under or after `at` by another. */
static void put_number(struct dice *d, size_t at) {
    while (at < now.size && (now.data[at] < '0' || now.data[at] > '9')) at++;
    size_t end = at;
    while (end < now.size && now.data[end] >= '0' && now.data[end] <= '9') end++;
    char text[32];
    uint64_t v = roll(d, 4) ? roll(d, 300) : hash_u64(d->state) >> roll(d, 64);
    replace(at, end - at, text, (size_t)snprintf(text, sizeof text, "%llu", (unsigned long long)v));
}

static void put_little_endian(struct dice *d, size_t at) {
    uint64_t v = roll(d, 2) ? roll(d, 1 << 16) : hash_u64(d->state) >> roll(d, 64);
    size_t n = (size_t)1 << roll(d, 4);
    for (size_t i = 0; i < n && at + i < now.size; i++) now.data[at + i] = (uint8_t)(v >> 8 * i);
}

/* Copies a piece of the input, or of another one, to `at`. */
static void put_piece(struct dice *d, size_t at) {
    static uint8_t piece[INPUT_MAX];
    const struct input *other = &corpus.items[roll(d, (uint64_t)corpus.n)];
    const uint8_t *from = roll(d, 2) ? now.data : other->data;
    size_t have = from == now.data ? now.size : other->size, begin = roll(d, have), n = roll(d, have - begin + 1);
    if (n > 256 && roll(d, 4)) n = 256;
    memcpy(piece, from + begin, n);
    size_t old = roll(d, 2) ? n : 0;
    replace(at, old > now.size - at ? now.size - at : old, piece, n);
}

static void mutate_once(struct dice *d) {
    size_t at = roll(d, now.size + 1), rest = now.size - at;
    uint8_t byte = (uint8_t)roll(d, 256);
    switch (roll(d, 10)) {
    case 0: if (rest) now.data[at] ^= (uint8_t)(1 << roll(d, 8)); break;
    case 1: if (rest) now.data[at] = byte; break;
    case 2: replace(at, 0, &byte, 1); break;
    case 3: replace(at, roll(d, (rest < 64 ? rest : 64) + 1), NULL, 0); break;
    case 4: now.size = at; break;
    case 5: put_word(d, at); break;
    case 6:
    case 7: put_number(d, at); break;
    case 8: put_little_endian(d, roll(d, 2) ? at : roll(d, 16 < now.size ? 16 : now.size + 1)); break;
    case 9: put_piece(d, at); break;
    }
}

static void test_mutation(uint64_t seed, uint64_t i) {
    struct dice d = {hash_u64(seed * 0x9e3779b97f4a7c15u + i)};
    const struct input *from = &corpus.items[roll(&d, (uint64_t)corpus.n)];
    memcpy(now.data, from->data, from->size);
    now.size = from->size;
    snprintf(now.origin, sizeof now.origin, "--seed %llu --only %llu", (unsigned long long)seed, (unsigned long long)i);
    for (uint64_t n = 1 + roll(&d, 6); n; n--) mutate_once(&d);
    test_now();
}

/* ---- runs ---- */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t test_corpus(double until) {
    uint64_t n = 0;
    for (int i = 0; i < corpus.n; i++) {
        const struct input *in = &corpus.items[i];
        memcpy(now.data, in->data, in->size);
        size_t cuts = in->size < MAX_CUTS ? in->size : MAX_CUTS; /* the beginning of a long input is where its structure is */
        for (size_t cut = 0; cut <= cuts; cut++, n++) {
            now.size = cut ? cut - 1 : in->size;
            snprintf(now.origin, sizeof now.origin, "corpus item %d at length %zu", i, now.size);
            test_now();
            if (cut && seconds() > until) break;
        }
    }
    return n;
}

struct run {
    double seconds;
    uint64_t seed, iterations, only;
    int has_only;
};

static int parse(int argc, char **argv, struct run *r) {
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (argv[i][0] != '-') {
            if (corpus_add_file(argv[i]) < 0) return fprintf(stderr, "%s: %s\n", argv[i], strerror(errno)), -1;
            continue;
        }
        if (!value) return fprintf(stderr, "%s needs a value\n", argv[i]), -1;
        if (!strcmp(argv[i], "--seconds")) r->seconds = strtod(value, NULL);
        else if (!strcmp(argv[i], "--seed")) r->seed = strtoull(value, NULL, 0);
        else if (!strcmp(argv[i], "--iterations")) r->iterations = strtoull(value, NULL, 0);
        else if (!strcmp(argv[i], "--only")) r->only = strtoull(value, NULL, 0), r->has_only = 1;
        else return fprintf(stderr, "usage: %s [--seconds N] [--seed N] [--iterations N] [--only I] [FILE...]\n", argv[0]), -1;
        i++;
    }
    return 0;
}

int main(int argc, char **argv) {
    struct run r = {.seconds = 5, .seed = 1, .iterations = UINT64_MAX};
    fuzz_seeds(corpus_add);
    if (parse(argc, argv, &r) < 0) return 2;
    if (!corpus.n) corpus_add("", 0);
    const char *base = strrchr(argv[0], '/');
    snprintf(now.crash_path, sizeof now.crash_path, "./%s.crash", base ? base + 1 : argv[0]);
    catch_crashes();
    double start = seconds();
    uint64_t n = 0, i = 0;
    if (r.has_only) {
        test_mutation(r.seed, r.only);
    } else {
        n = test_corpus(start + r.seconds / 2);
        for (; i < r.iterations && seconds() < start + r.seconds; i++) test_mutation(r.seed, i);
    }
    printf("%d corpus items, %llu inputs from them as they are or cut, %llu mutations, %.1f s\n", corpus.n,
           (unsigned long long)n, (unsigned long long)i, seconds() - start);
    corpus_clear();
    return 0;
}
