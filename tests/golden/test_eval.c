/* test_eval.c - what eval.h says of every tiny checkpoint is what an independent implementation's logits say; and weights that
 * were fitted to a text (calibrate.h) predict it more as f32 does than those rounded for themselves, over all checkpoints; and
 * so for the output's matrix as q4.
 *
 * usage: test_eval DATA_DIR */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/pack.h"
#include "tests/golden/names.h"
#include "tests/golden/reference.h"
#include "tests/golden/runner.h"
#include "worker/calibrate.h"
#include "worker/eval.h"

enum { WINDOW = 128, MODELS = 3 };
static const double CLOSE = 2e-3; /* nats for a token: test_golden says how near logits are */

static int passed, failed, pruned;
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
    const struct eval_options o = {.isa = "auto", .weights = weights, .kv = "auto", .threads = 2, .window = WINDOW};
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

static void make_pack(const char *from, const char *to, bool output_too, const struct calibration *c) {
    struct why why;
    const struct pack_wish wish = {.weights = FMT_Q4, .output_too = output_too, .rounding = c ? calibration_rounding(c) : NULL};
    if (pack_write(from, to, &wish, &(struct pack_progress){0}, &why) < 0) die("%s", why.text);
}

/* The first prompt's logits, with some experts on no worker. */
static float *logits_of(const char *dir, const struct reference *r, const int32_t *missing, int n) {
    const struct runner_options o = {.isa = "ref", .threads = 1, .missing = missing, .n_missing = n};
    float *out = malloc(sizeof *out * (size_t)r->T[0] * (size_t)r->V);
    struct runner run;
    struct why why;
    if (!out || runner_open(&run, dir, &o, &why) < 0 || runner_logits(&run, r->ids[0], r->T[0], 0, out) < 0) die("%s", dir);
    runner_close(&run);
    return out;
}

/* Where a weight depends on the chosen alone, an expert that was left out is as one that is nowhere. */
static void test_same_as_missing(const char *name, const char *dir, const char *folder, const struct checkpoint *was,
                                 const struct pruning *p, const struct reference *r) {
    static int32_t missing[1024][2];
    double worst = 0;
    int n = 0;
    for (int l = 0; l < was->config.layers; l++) {
        const int16_t *kept = p->kept + was->config.moe_index[l] * p->experts;
        for (int e = 0, k = 0; was->config.moe_index[l] >= 0 && e < was->config.gate.experts; e++) {
            if (k < p->experts && kept[k] == e) k++;
            else missing[n][0] = l, missing[n++][1] = e;
        }
    }
    float *want = logits_of(dir, r, &missing[0][0], n), *got = logits_of(folder, r, NULL, 0);
    for (int i = 0; i < r->T[0] * r->V; i++) worst = fmax(worst, fabs((double)want[i] - (double)got[i]));
    report(n && worst < 1e-4 * r->std[0], name, "the rest is as it was", worst);
    free(want);
    free(got);
}

/* A quarter of the experts of flat routers go, and the model that is left is whole; others say that they cannot be. */
static void test_pruned(const char *name, const char *dir, struct calibration *c, const struct reference *r) {
    struct pack_wish wish = {.weights = FMT_F32};
    char folder[] = "/tmp/test_eval.XXXXXX";
    struct checkpoint was, is;
    struct why why;
    if (checkpoint_open(dir, &was, &why) < 0 || !mkdtemp(folder)) die("%s", dir);
    int rc = pruning_stay(&was.config, FMT_F32, PRUNE_EXPERTS, 0.25, &why);
    if (rc >= 0) rc = calibration_prune(c, rc, &wish.pruning, &why);
    if (rc >= 0) rc = pack_write(dir, folder, &wish, &(struct pack_progress){0}, &why);
    if (rc >= 0) {
        if (checkpoint_open(folder, &is, &why) < 0) die("%s", why.text);
        struct eval *e[] = {open_as(dir, "f32"), open_as(folder, "auto")};
        score(e, 2, r);
        const double cost = eval_score(e[1])->divergence / (double)eval_score(e[1])->tokens;
        report(is.config.gate.experts == wish.pruning->experts && isfinite(cost), name, "fewer experts, nats for it", cost);
        for (int m = 0; m < 2; m++) eval_close(e[m]);
        checkpoint_close(&is);
        pruned++;
        if (!strcmp(name, "mixtral") || !strcmp(name, "cadre_moe_raw"))
            test_same_as_missing(name, dir, folder, &was, wish.pruning, r);
    } else {
        const bool may = was.config.router.history.mode == HISTORY_NONE && was.config.moe_layers &&
                         was.config.router.kind == ROUTER_FLAT && was.config.gate.group == GATE_GROUP_NONE &&
                         !was.config.gate.zero && was.config.gate.experts * 3 / 4 > was.config.gate.k;
        report(!may, name, why.text, rc);
    }
    checkpoint_close(&was);
    remove_folder(folder);
}

/* By how much fitting brought the model nearer to itself, in nats over the text: with the output's matrix as q8 and as q4. */
static void test_fitted(const char *name, const char *dir, const struct reference *r, double nearer[2]) {
    enum { PACKS = 4 }; /* by twos: rounded for itself, fitted */
    const struct calibrate_options o = {.threads = 2, .window = WINDOW};
    char folder[PACKS][40];
    static int32_t text[PROMPTS * WINDOW];
    struct calibration *c;
    struct why why;
    int n = 0;
    for (int p = 0; p < PROMPTS; p++)
        for (int t = 0; t < r->T[p]; t++) text[n++] = r->ids[p][t];
    if (calibration_new(dir, &o, text, n, -1, NULL, NULL, &c, &why) < 0) die("%s: %s", dir, why.text);
    for (int i = 0; i < PACKS; i++) {
        snprintf(folder[i], sizeof folder[i], "/tmp/test_eval.XXXXXX");
        if (!mkdtemp(folder[i])) die("no folder for a pack");
        make_pack(dir, folder[i], i / 2, i % 2 ? c : NULL);
    }
    int again = pack_write(dir, folder[1], &(struct pack_wish){.weights = FMT_Q4}, &(struct pack_progress){0}, &why);
    report(again == ERR_EXISTS, name, "a fitted pack is another than a plain one", again);
    test_pruned(name, dir, c, r);
    calibration_free(c);
    struct eval *e[1 + PACKS] = {open_as(dir, "f32")};
    for (int i = 0; i < PACKS; i++) e[1 + i] = open_as(folder[i], "auto");
    score(e, 1 + PACKS, r);
    for (int i = 0; i < 2; i++) {
        const double plain = eval_score(e[1 + 2 * i])->divergence, fitted = eval_score(e[2 + 2 * i])->divergence;
        report(isfinite(fitted), name, i ? "fitted, output and all" : "fitted", (plain - fitted) / plain);
        nearer[i] = plain - fitted;
    }
    struct eval_size with, without;
    eval_size(e[1], &without);
    eval_size(e[3], &with);
    report(with.bytes < without.bytes, name, "and smaller", (double)with.bytes / (double)without.bytes);
    for (int m = 0; m < 1 + PACKS; m++) eval_close(e[m]);
    for (int i = 0; i < PACKS; i++) remove_folder(folder[i]);
}

int main(int argc, char **argv) {
    static struct names all;
    double nearer[2] = {0};
    int worse[2] = {0};
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
        double by[2];
        test_fitted(all.name[i], dir, &ref, by);
        for (int o = 0; o < 2; o++) {
            nearer[o] += by[o];
            worse[o] += by[o] < 0;
        }
        free_reference(&ref, file);
    }
    for (int o = 0; o < 2; o++) {
        report(nearer[o] > 0, "all", "fitted weights are nearer to f32 on their text", nearer[o]);
        report(worse[o] < all.count / 2, "all", "those that fitting made worse", worse[o]);
    }
    report(pruned > all.count / 4, "all", "those of which experts were left out", pruned);
    printf("1..%d\n", passed + failed);
    return failed > 0;
}
