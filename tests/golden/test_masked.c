/* test_masked.c - answers while experts are on no worker: those of a model that never had them (tools/golden/make_masked.py),
 * on every kernel path and in every chunking; and neither with all experts nor without one more.
 *
 * usage: test_masked DATA_DIR */
#include "tests/golden/names.h"
#include "tests/golden/runner.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

static const double TOLERANCE = 1e-4; /* of the logits' standard deviation */
enum { MOST_MISSING = 64 };

static int passed, failed;
static void report(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void report(bool ok, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("%s %d - %s\n", ok ? "ok" : "not ok", passed + failed + 1, text);
    *(ok ? &passed : &failed) += 1;
}

struct reference {
    int T, V, n_missing;
    int32_t ids[RUNNER_MAX_TOKENS], missing[2 * MOST_MISSING];
    float *logits; /* [T,V] */
    double std;
};

static const struct st_tensor *need(const struct st_set *set, const char *name, const char *path) {
    const struct st_tensor *t = st_find(set, name);
    if (!t) die("%s lacks %s", path, name);
    return t;
}

static bool read_reference(const char *path, struct reference *r) {
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    static unsigned char file[1 << 20];
    size_t bytes = fread(file, 1, sizeof file, f);
    struct st_set *set;
    struct why why;
    fclose(f);
    if (st_open_memory(file, bytes, &set, &why) < 0) die("%s: %s", path, why.text);
    const struct st_tensor *ids = need(set, "ids", path), *missing = need(set, "missing", path),
                           *logits = need(set, "logits", path);
    r->T = (int)ids->shape[0];
    r->V = (int)logits->shape[1];
    r->n_missing = (int)missing->shape[0];
    r->logits = malloc(logits->bytes);
    if (!r->logits || r->T > RUNNER_MAX_TOKENS || r->n_missing > MOST_MISSING) die("%s is too large", path);
    memcpy(r->ids, ids->data, ids->bytes);
    memcpy(r->missing, missing->data, missing->bytes);
    memcpy(r->logits, logits->data, logits->bytes);
    double n = (double)r->T * r->V, sum = 0, squares = 0;
    for (int i = 0; i < r->T * r->V; i++) sum += (double)r->logits[i];
    for (int i = 0; i < r->T * r->V; i++) squares += ((double)r->logits[i] - sum / n) * ((double)r->logits[i] - sum / n);
    r->std = sqrt(squares / n);
    st_close(set);
    return true;
}

static double distance(const struct reference *r, const float *got) {
    double worst = 0;
    for (int i = 0; i < r->T * r->V; i++) {
        double d = fabs((double)got[i] - (double)r->logits[i]) / r->std;
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

/* How far the answer is from the reference when these experts are missing; out [T,V]. */
static double run(const char *dir, const struct reference *r, const char *isa, int n_missing, const int32_t *missing, int chunk,
                  float *out) {
    struct runner runner;
    struct runner_options o = {.isa = isa, .threads = 2, .weights = FMT_F32, .missing = missing, .n_missing = n_missing};
    struct why why;
    if (runner_open(&runner, dir, &o, &why) < 0) die("%s: %s", dir, why.text);
    if (runner_logits(&runner, r->ids, r->T, chunk, out) < 0) die("%s: the forward pass failed", dir);
    runner_close(&runner);
    return distance(r, out);
}

static void test_checkpoint(const char *name, const char *dir, const struct reference *r) {
    static const char *const isas[] = {"ref", "avx2", "avx512"};
    static const int chunks[] = {0, 1, 7};
    size_t bytes = (size_t)r->T * (size_t)r->V * sizeof(float);
    float *whole = malloc(bytes), *got = malloc(bytes);
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        struct backend *b;
        struct why why;
        if (backend_open(&(struct backend_options){.isa = isas[i], .threads = 1}, &b, &why) < 0) continue;
        backend_close(b);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            double d = run(dir, r, isas[i], r->n_missing, r->missing, chunks[c], c ? got : whole);
            report(d <= TOLERANCE, "%s %s chunks of %d without %d experts: %.2e standard deviations", name, isas[i], chunks[c],
                   r->n_missing, d);
            if (c)
                report(!memcmp(whole, got, bytes), "%s %s chunks of %d: the same bits as in one go", name, isas[i], chunks[c]);
        }
    }
    double d = run(dir, r, "ref", 0, NULL, 0, got);
    report(d > 10 * TOLERANCE, "%s notices: no expert is missing (%.2g)", name, d);
    d = run(dir, r, "ref", r->n_missing - 1, r->missing + 2, 0, got);
    report(d > 10 * TOLERANCE, "%s notices: one of the missing experts is there (%.2g)", name, d);
    free(whole);
    free(got);
}

int main(int argc, char **argv) {
    static struct names all;
    if (argc != 2) die("usage: test_masked DATA_DIR");
    names_read(argv[1], &all);
    for (int i = 0; i < all.count; i++) {
        char dir[1024], path[1100];
        struct reference r;
        snprintf(dir, sizeof dir, "%s/%s", argv[1], all.name[i]);
        snprintf(path, sizeof path, "%s/masked.safetensors", dir);
        if (!read_reference(path, &r)) continue;
        test_checkpoint(all.name[i], dir, &r);
        free(r.logits);
    }
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0 || !passed;
}
