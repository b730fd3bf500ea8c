/* test_readings.c - where the authors' code and transformers differ (docs/MODELS.md): the default is the authors' reading, a
 * key of config.json selects the other, and both have the logits that tools/golden/make_readings.py got for them, on every
 * kernel path and in every chunking.
 *
 * usage: test_readings DATA_DIR */
#include "tests/golden/names.h"
#include "tests/golden/runner.h"

#include "model/json_read.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

static const double TOLERANCE = 1e-4; /* of the logits' standard deviation */

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

/* config.json of the run under way; the checkpoint is opened as it is on disk and then understood as this says. */
static struct model_config understood;
static void understand(struct model_config *c) {
    const enum fmt stored = c->stored;
    *c = understood;
    c->stored = stored;
}

static json_t *read_json(const char *path) {
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    if (!root) die("%s, line %d: %s", path, error.line, error.text);
    return root;
}

/* The directory's configuration with the members of `changes` in it, and with those of `more`, which may be NULL. */
static void set_config(const char *dir, const json_t *changes, const json_t *more) {
    char path[1200];
    struct why why;
    snprintf(path, sizeof path, "%s/config.json", dir);
    json_t *root = read_json(path);
    json_object_update(root, (json_t *)changes);
    if (more) json_object_update(root, (json_t *)more);
    char *text = json_dumps(root, 0);
    if (!text || model_config_parse(text, strlen(text), NULL, 0, &understood, &why) < 0) die("%s: %s", path, why.text);
    free(text);
    json_decref(root);
}

struct readings {
    int T, V;
    const int32_t *ids;
    const float *authors, *other; /* [T,V] */
};

static double distance(const struct readings *r, const float *want, const float *got) {
    double n = (double)r->T * r->V, sum = 0, squares = 0, worst = 0;
    for (int i = 0; i < r->T * r->V; i++) sum += (double)want[i];
    for (int i = 0; i < r->T * r->V; i++) squares += ((double)want[i] - sum / n) * ((double)want[i] - sum / n);
    for (int i = 0; i < r->T * r->V; i++) {
        double d = fabs((double)got[i] - (double)want[i]) / sqrt(squares / n);
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

/* As `understood` says: near `want` in every chunking and on every path, far from what is `not_want`ed. */
static void test_reading(const char *label, const char *dir, const struct readings *r, const float *want,
                         const float *not_wanted) {
    static const char *const isas[] = {"ref", "avx2", "avx512"};
    static const int chunks[] = {0, 1, 7};
    float *got = malloc((size_t)r->T * (size_t)r->V * sizeof *got);
    for (size_t i = 0; got && i < sizeof isas / sizeof *isas; i++) {
        struct runner runner;
        struct runner_options o = {.isa = isas[i], .threads = 2, .weights = FMT_F32, .mutate_config = understand};
        struct why why;
        struct backend *b;
        if (backend_open(&(struct backend_options){.isa = isas[i], .threads = 1}, &b, &why) < 0) continue;
        backend_close(b);
        if (runner_open(&runner, dir, &o, &why) < 0) die("%s: %s", dir, why.text);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            if (runner_logits(&runner, r->ids, r->T, chunks[c], got) < 0) die("%s: the forward pass failed", dir);
            double d = distance(r, want, got), apart = distance(r, not_wanted, got);
            report(d <= TOLERANCE && apart > 100 * TOLERANCE,
                   "%s %s chunks of %d: %.2e standard deviations off, %.2g from the other reading", label, isas[i], chunks[c],
                   d, apart);
        }
        runner_close(&runner);
    }
    free(got);
}

static const struct st_tensor *need(const struct st_set *set, const char *name, const char *path) {
    const struct st_tensor *t = st_find(set, name);
    if (!t) die("%s lacks %s", path, name);
    return t;
}

static void test_key(const char *name, const char *dir, const char *key) {
    static unsigned char file[1 << 20];
    char path[1200], label[160];
    struct st_set *set;
    struct why why;
    snprintf(path, sizeof path, "%s/reading_%s.json", dir, key);
    json_t *said = read_json(path);
    snprintf(path, sizeof path, "%s/reading_%s.safetensors", dir, key);
    FILE *f = fopen(path, "rb");
    if (!f) die("cannot read %s", path);
    size_t bytes = fread(file, 1, sizeof file, f);
    fclose(f);
    if (st_open_memory(file, bytes, &set, &why) < 0) die("%s: %s", path, why.text);
    const struct st_tensor *ids = need(set, "ids", path), *authors = need(set, "authors", path),
                           *other = need(set, "other", path);
    struct readings r = {(int)ids->shape[0], (int)authors->shape[1], ids->data, authors->data, other->data};
    if (r.T > RUNNER_MAX_TOKENS || other->bytes != authors->bytes) die("%s is too large, or its readings differ in size", path);
    set_config(dir, json_object_get(said, "both"), NULL);
    snprintf(label, sizeof label, "%s without %s, as its authors read it,", name, key);
    test_reading(label, dir, &r, r.authors, r.other);
    set_config(dir, json_object_get(said, "both"), json_object_get(said, "other"));
    snprintf(label, sizeof label, "%s with %s", name, key);
    test_reading(label, dir, &r, r.other, r.authors);
    st_close(set);
    json_decref(said);
}

int main(int argc, char **argv) {
    static const char *const keys[] = {"group_fill", "scale_always", "yarn_always"};
    static struct names all;
    if (argc != 2) die("usage: test_readings DATA_DIR");
    log_set_level(LOG_ERROR);
    names_read(argv[1], &all);
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        int found = 0;
        for (int i = 0; i < all.count; i++) {
            char dir[1024], path[1200];
            snprintf(dir, sizeof dir, "%s/%s", argv[1], all.name[i]);
            snprintf(path, sizeof path, "%s/reading_%s.json", dir, keys[k]);
            if (access(path, R_OK)) continue;
            test_key(all.name[i], dir, keys[k]);
            found++;
        }
        report(found > 0, "%s: %d checkpoints have both readings", keys[k], found);
    }
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0;
}
