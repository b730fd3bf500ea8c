/* test_eval.c - what eval.h says of every tiny checkpoint is what an independent implementation's logits say; and weights that
 * were fitted to a text (calibrate.h) predict it more as f32 does than those rounded for themselves, over all checkpoints.
 *
 * usage: test_eval DATA_DIR */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/pack.h"
#include "tests/golden/names.h"
#include "tests/golden/reference.h"
#include "worker/calibrate.h"
#include "worker/eval.h"

enum { WINDOW = 128, MODELS = 3 };
static const double CLOSE = 2e-3; /* nats for a token: test_golden says how near logits are */

static int passed, failed;
static void report(bool ok, const char *name, const char *what, double figure) {
    *(ok ? &passed : &failed) += 1;
    printf("%s %d - %s: %s (%.3g)\n", ok ? "ok" : "not ok", passed + failed, name, what, figure);
}

static double nll_of(const struct reference *r, int p) {
    double sum = 0;
    for (int t = 0; t + 1 < r->T[p]; t++) {
        const float *row = r->logits[p] + (size_t)t * (size_t)r->V;
        double all = 0, most = (double)row[0];
        for (int i = 1; i < r->V; i++) most = fmax(most, (double)row[i]);
        for (int i = 0; i < r->V; i++) all += exp((double)row[i] - most);
        sum += most + log(all) - (double)row[r->ids[p][t + 1]];
    }
    return sum;
}

static struct eval *open_as(const char *dir, const char *weights) {
    const struct eval_options o = {.isa = "auto", .weights = weights, .threads = 2, .window = WINDOW};
    struct eval *e;
    struct why why;
    if (eval_open(dir, &o, &e, &why) < 0) die("%s as %s: %s", dir, weights, why.text);
    return e;
}

static void score(struct eval *const *e, int n, const struct reference *r) {
    struct why why;
    for (int p = 0; p < PROMPTS; p++)
        if (eval_window(e, n, r->ids[p], r->T[p], &why) < 0) die("%s", why.text);
}

static void test_scores(const char *name, const char *dir, const struct reference *r) {
    struct eval *e[MODELS] = {open_as(dir, "f32"), open_as(dir, "f32"), open_as(dir, "q4")};
    double want = 0;
    score(e, MODELS, r);
    for (int p = 0; p < PROMPTS; p++) want += nll_of(r, p);
    const struct eval_score *s = eval_score(e[0]), *twin = eval_score(e[1]), *q4 = eval_score(e[2]);
    const double off = fabs(s->nll - want) / (double)s->tokens;
    report(off < CLOSE, name, "the loss of an independent implementation", off);
    report(twin->agreed == s->tokens && twin->apart == 0 && fabs(twin->divergence) < 1e-9, name, "a model is its own twin",
           twin->divergence);
    report(q4->divergence > 0 && q4->tokens == s->tokens, name, "q4 is another", q4->divergence / (double)q4->tokens);
    for (int m = 0; m < MODELS; m++) eval_close(e[m]);
}

/* A folder that goes with what is in it. */
static void remove_folder(const char *dir) {
    struct dirent **entries;
    char path[400];
    int n = scandir(dir, &entries, NULL, NULL);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, entries[i]->d_name);
        unlink(path);
        free(entries[i]);
    }
    if (n >= 0) free(entries);
    rmdir(dir);
}

static void make_pack(const char *from, const char *to, const struct calibration *c) {
    struct why why;
    int rc = pack_write(from, to, FMT_Q4, c ? calibration_rounding(c) : NULL, &(struct pack_progress){0}, &why);
    if (rc < 0) die("%s", why.text);
}

/* Returns by how much fitting brought the model nearer to itself, in nats over the text. */
static double test_fitted(const char *name, const char *dir, const struct reference *r) {
    const struct calibrate_options o = {.threads = 2, .window = WINDOW};
    char folder[2][40] = {"/tmp/test_eval.XXXXXX", "/tmp/test_eval.XXXXXX"};
    static int32_t text[PROMPTS * WINDOW];
    struct calibration *c;
    struct why why;
    int n = 0;
    for (int p = 0; p < PROMPTS; p++)
        for (int t = 0; t < r->T[p]; t++) text[n++] = r->ids[p][t];
    if (calibration_new(dir, &o, text, n, -1, NULL, NULL, &c, &why) < 0) die("%s: %s", dir, why.text);
    for (int i = 0; i < 2; i++) {
        if (!mkdtemp(folder[i])) die("no folder for a pack");
        make_pack(dir, folder[i], i ? c : NULL);
    }
    int again = pack_write(dir, folder[1], FMT_Q4, NULL, &(struct pack_progress){0}, &why);
    report(again == ERR_EXISTS, name, "a fitted pack is another than a plain one", again);
    calibration_free(c);
    struct eval *e[MODELS] = {open_as(dir, "f32"), open_as(folder[0], "auto"), open_as(folder[1], "auto")};
    score(e, MODELS, r);
    const double plain = eval_score(e[1])->divergence, fitted = eval_score(e[2])->divergence;
    report(isfinite(fitted), name, "fitted", (plain - fitted) / plain);
    for (int m = 0; m < MODELS; m++) eval_close(e[m]);
    for (int i = 0; i < 2; i++) remove_folder(folder[i]);
    return plain - fitted;
}

int main(int argc, char **argv) {
    static struct names all;
    double nearer = 0;
    int worse = 0;
    if (argc != 2) die("usage: test_eval DATA_DIR");
    log_set_level(LOG_ERROR);
    names_read(argv[1], &all);
    for (int i = 0; i < all.count; i++) {
        char dir[1024];
        void *file;
        struct reference ref = {0};
        snprintf(dir, sizeof dir, "%s/%s", argv[1], all.name[i]);
        read_reference(dir, &ref, &file);
        test_scores(all.name[i], dir, &ref);
        const double by = test_fitted(all.name[i], dir, &ref);
        nearer += by;
        worse += by < 0;
        free_reference(&ref, file);
    }
    report(nearer > 0, "all", "fitted weights are nearer to f32 on their text", nearer);
    report(worse < all.count / 2, "all", "those that fitting made worse", worse);
    printf("1..%d\n", passed + failed);
    return failed > 0;
}
