/* test_quantised.c - the tiny checkpoints of every family with q8 and q4 weights, and with keys and values in fewer bits:
 * logits near those of an independent implementation in f32, and the same bits with the prompt in chunks as in one go. On AVX2
 * alone, which every builder has: that others give the same bits is test_quant's and test_bits'.
 *
 * usage: test_quantised DATA_DIR */
#include "tests/golden/names.h"
#include "tests/golden/reference.h"
#include "tests/golden/runner.h"

#include "base/log.h"

/* Random weights: every error grows from layer to layer. */
static const struct {
    const char *name;
    enum fmt weights, kv;
    double tolerance;
} forms[] = {{"q8", FMT_Q8, FMT_F32, 0.06},
             {"q4", FMT_Q4, FMT_F32, 0.45},
             {"f32, keys and values as bf16", FMT_F32, FMT_BF16, 0.02},
             {"f32, keys and values as f16", FMT_F32, FMT_F16, 0.002},
             {"f32, keys and values as int8", FMT_F32, FMT_INT8, 0.1},
             {"f32, all in the expanded form as int8", FMT_F32, FMT_INT8, 0.1}};
enum { FORMS = sizeof forms / sizeof *forms, EXPANDED = FORMS - 1 /* of models with latents */ };

static int passed, failed;
static void report(bool ok, const char *name, int form, const char *what, double distance) {
    *(ok ? &passed : &failed) += 1;
    printf("%s %d - %s as %s: %s (%.3g)\n", ok ? "ok" : "not ok", passed + failed, name, forms[form].name, what, distance);
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
static void test_form(const char *name, const char *dir, const struct reference *ref, int form) {
    const struct runner_options o = {
        .isa = "avx2", .threads = 2, .weights = forms[form].weights, .kv = forms[form].kv, .naive_prefill = form == EXPANDED};
    struct runner r;
    struct why why;
    bool same = true;
    double worst = 0;
    if (runner_open(&r, dir, &o, &why) < 0) die("%s", why.text);
    if (form == EXPANDED && !r.solo.checkpoint.config.mla.kv_rank) return runner_close(&r);
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
    report(worst <= forms[form].tolerance, name, form, "standard deviations from f32", worst);
    report(same, name, form, "the same bits in chunks of 3", 0);
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
        for (int form = 0; form < FORMS; form++) test_form(all.name[i], dir, &ref, form);
        free_reference(&ref, file);
    }
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0;
}
