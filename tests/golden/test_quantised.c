/* test_quantised.c - the tiny checkpoints of every family with q8 and q4 weights: logits near those of an independent
 * implementation in f32, and the same bits with the prompt in chunks as in one go. On AVX2 alone, which every builder has: that
 * others give the same bits is test_quant's.
 *
 * usage: test_quantised DATA_DIR */
#include "tests/golden/names.h"
#include "tests/golden/reference.h"
#include "tests/golden/runner.h"

#include "base/log.h"

static const double Q8_TOLERANCE = 0.06, Q4_TOLERANCE = 0.45; /* random weights: every error grows from layer to layer */

static int passed, failed;
static void report(bool ok, const char *name, enum fmt fmt, const char *what, double distance) {
    *(ok ? &passed : &failed) += 1;
    printf("%s %d - %s as %s: %s (%.3g)\n", ok ? "ok" : "not ok", passed + failed, name, fmt_name(fmt), what, distance);
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The median of the differences, in standard deviations; infinite when a logit is not a number. */
static double median_distance(const struct reference *r, int p, const float *got) {
    size_t n = (size_t)r->T[p] * (size_t)r->V;
    float *d = malloc(n * sizeof *d);
    if (!d) die("out of memory for %zu differences", n);
    for (size_t i = 0; i < n; i++) d[i] = isfinite(got[i]) ? fabsf(got[i] - r->logits[p][i]) : INFINITY;
    qsort(d, n, sizeof *d, by_size);
    double median = d[n - 1] < INFINITY ? (double)d[n / 2] / (double)r->std[p] : INFINITY;
    free(d);
    return median;
}

/* Where rounding makes a gate choose another expert a token goes far astray, as it does when any other arithmetic rounds
 * otherwise; so what is judged is the median difference. */
static void test_format(const char *name, const char *dir, const struct reference *ref, enum fmt fmt, double tolerance) {
    struct runner r;
    struct why why;
    bool same = true;
    double worst = 0;
    if (runner_open(&r, dir, &(struct runner_options){.isa = "avx2", .threads = 2, .weights = fmt}, &why) < 0)
        die("%s", why.text);
    for (int p = 0; p < PROMPTS; p++) {
        size_t n = (size_t)ref->T[p] * (size_t)ref->V;
        float *whole = malloc(n * sizeof *whole), *chunks = malloc(n * sizeof *chunks);
        if (!whole || !chunks || runner_logits(&r, ref->ids[p], ref->T[p], 0, whole) < 0 ||
            runner_logits(&r, ref->ids[p], ref->T[p], 3, chunks) < 0)
            die("the forward pass failed");
        same &= !memcmp(whole, chunks, n * sizeof *whole);
        worst = fmax(worst, median_distance(ref, p, whole));
        free(whole);
        free(chunks);
    }
    report(worst <= tolerance, name, fmt, "standard deviations from f32", worst);
    report(same, name, fmt, "the same bits in chunks of 3", 0);
    runner_close(&r);
}

int main(int argc, char **argv) {
    static struct names all;
    struct backend *b;
    struct why why;
    if (argc != 2) die("usage: test_quantised DATA_DIR");
    log_set_level(LOG_ERROR);
    if (backend_open(&(struct backend_options){.isa = "avx2", .threads = 1}, &b, &why) < 0) {
        printf("1..0 # skip: %s\n", why.text);
        return 0;
    }
    backend_close(b);
    names_read(argv[1], &all);
    for (int i = 0; i < all.count; i++) {
        char dir[1024];
        void *file;
        struct reference ref = {0};
        snprintf(dir, sizeof dir, "%s/%s", argv[1], all.name[i]);
        read_reference(dir, &ref, &file);
        test_format(all.name[i], dir, &ref, FMT_Q8, Q8_TOLERANCE);
        test_format(all.name[i], dir, &ref, FMT_Q4, Q4_TOLERANCE);
        free_reference(&ref, file);
    }
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0;
}
