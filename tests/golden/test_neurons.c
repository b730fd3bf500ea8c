/* test_neurons.c - neurons that a pack leaves out (calibrate.h): of a model in which some of every expert's give nothing, these
 * go, and the logits keep their bits; others in their place are noticed. Quantised and fitted, the model that is left is whole.
 *
 * usage: test_neurons DATA_DIR */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/pack.h"
#include "tests/golden/names.h"
#include "tests/golden/reference.h"
#include "tests/golden/runner.h"
#include "worker/calibrate.h"
#include "worker/eval.h"

enum { EVERY = 4 /* one of so many neurons gives nothing */, WINDOW = 128 };

static int passed, failed, pruned;
static void report(bool ok, const char *name, const char *what, double figure) {
    *(ok ? &passed : &failed) += 1;
    printf("%s %d - %s: %s (%.3g)\n", ok ? "ok" : "not ok", passed + failed, name, what, figure);
}

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

static char *read_file(const char *dir, const char *name, size_t *n) {
    char path[1300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    char *data = malloc(1 << 24);
    if (!f || !data) die("cannot read %s", path);
    *n = fread(data, 1, 1 << 24, f);
    fclose(f);
    return data;
}

static void write_file(const char *dir, const char *name, const char *data, size_t n) {
    char path[1300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) die("cannot write %s", path);
}

static bool gives_nothing(int expert, int neuron) { return (neuron + expert) % EVERY == 1; }

/* Rows of gate of those neurons become zero, in a file whose tensors begin where the first one does. */
static void silence(const struct checkpoint *c, char *file) {
    const char *first = st_at(c->tensors, 0)->data;
    uint64_t head;
    memcpy(&head, file, sizeof head);
    for (int i = 1; i < st_count(c->tensors); i++)
        if ((const char *)st_at(c->tensors, i)->data < first) first = st_at(c->tensors, i)->data;
    for (int l = 0; l < c->config.layers; l++) {
        for (int e = 0; c->config.moe_index[l] >= 0 && e < c->config.gate.experts; e++) {
            struct tensor_want w;
            model_tensor(&c->config, T_EXPERT_GATE, l, e, &w);
            const struct st_tensor *t = st_find(c->tensors, w.name);
            const size_t size = (size_t)st_dtype_bytes(t->dtype);
            char *at = file + 8 + head + ((const char *)t->data - first);
            for (int r = 0; r < w.rows; r++)
                for (int k = 0; gives_nothing(e, r) && k < w.cols; k++)
                    memset(at + (size_t)(w.first + r * w.row_step + k * w.col_step) * size, 0, size);
        }
    }
}

static void make_model(const char *dir, const struct checkpoint *c, const char *folder) {
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        size_t n;
        char *data = read_file(dir, files[i], &n);
        if (i) silence(c, data);
        write_file(folder, files[i], data, n);
        free(data);
    }
}

static float *logits_of(const char *dir, const struct reference *r) {
    const struct runner_options o = {.isa = "ref", .threads = 1};
    float *out = malloc(sizeof *out * (size_t)r->T[0] * (size_t)r->V);
    struct runner run;
    struct why why;
    if (!out || runner_open(&run, dir, &o, &why) < 0 || runner_logits(&run, r->ids[0], r->T[0], 0, out) < 0) die("%s", dir);
    runner_close(&run);
    return out;
}

/* How far the pack's logits are from `want`; -1: there is no such pack, and why says why. */
static double pack_apart(const char *model, const struct pruning *p, const struct reference *r, const float *want, int width,
                         struct why *why) {
    const struct pack_wish wish = {.weights = FMT_F32, .pruning = p};
    char folder[] = "/tmp/test_neurons.XXXXXX";
    struct checkpoint c;
    double worst = -1;
    if (!mkdtemp(folder)) die("no folder for a pack");
    if (pack_write(model, folder, &wish, &(struct pack_progress){0}, why) >= 0) {
        if (checkpoint_open(folder, &c, why) < 0) die("%s", why->text);
        if (c.config.expert_ffn != width) die("%s: %d neurons, wanted %d", model, c.config.expert_ffn, width);
        checkpoint_close(&c);
        float *got = logits_of(folder, r);
        worst = 0;
        for (int i = 0; i < r->T[0] * r->V; i++) worst = fmax(worst, fabs((double)want[i] - (double)got[i]));
        free(got);
    }
    remove_folder(folder);
    return worst;
}

static void test_others(const char *name, const char *model, const struct pruning *p, int experts, const struct reference *r,
                        const float *want) {
    const size_t n = (size_t)experts * (size_t)p->neurons;
    int32_t *kept = malloc(sizeof *kept * n);
    struct why why;
    if (!kept) die("out of memory");
    memcpy(kept, p->kept_neurons, sizeof *kept * n);
    for (int e = 0; e < experts; e++) {
        int32_t *of = kept + (size_t)e * (size_t)p->neurons;
        int first = 0;
        while (of[first] == first) first++;
        if (first) of[first - 1] = first; /* one that gives nothing for one that gives something */
        else of[0] = 0;
    }
    const struct pruning other = {.neurons = p->neurons, .kept_neurons = kept};
    const double apart = pack_apart(model, &other, r, want, p->neurons, &why);
    report(apart > 1e-6 * r->std[0], name, "other neurons are noticed", apart);
    free(kept);
}

static void test_fitted(const char *name, const char *model, struct calibration *c, const struct pruning *p,
                        const struct reference *r) {
    const struct pack_wish wish = {.weights = FMT_Q4, .pruning = p, .rounding = calibration_rounding(c)};
    const struct eval_options o = {.isa = "auto", .weights = "auto", .kv = "auto", .threads = 2, .window = WINDOW};
    char folder[] = "/tmp/test_neurons.XXXXXX";
    struct eval *e;
    struct why why;
    if (!mkdtemp(folder) || pack_write(model, folder, &wish, &(struct pack_progress){0}, &why) < 0) die("%s", why.text);
    if (eval_open(folder, &o, &e, &why) < 0 || eval_window(&e, 1, r->ids[0], r->T[0], &why) < 0) die("%s", why.text);
    report(isfinite(eval_score(e)->nll), name, "fitted to q4, without them", eval_score(e)->nll);
    eval_close(e);
    remove_folder(folder);
}

static void test_model(const char *name, const char *dir, const struct checkpoint *was, const struct reference *r) {
    const struct calibrate_options o = {.threads = 2, .window = WINDOW};
    const struct pruning *p;
    const int F = was->config.expert_ffn, stay = F - F / EVERY, experts = was->config.moe_layers * was->config.gate.experts;
    static int32_t text[PROMPTS * WINDOW];
    char model[] = "/tmp/test_neurons.XXXXXX";
    struct calibration *c;
    struct why why;
    int n = 0;
    for (int i = 0; i < PROMPTS; i++)
        for (int t = 0; t < r->T[i]; t++) text[n++] = r->ids[i][t];
    if (!mkdtemp(model)) die("no folder for a model");
    make_model(dir, was, model);
    if (calibration_new(model, &o, text, n, -1, NULL, NULL, &c, &why) < 0) die("%s: %s", name, why.text);
    int rc = pruning_stay(&was->config, FMT_F32, PRUNE_NEURONS, (double)(F / EVERY) / F, &why);
    if (rc >= 0) rc = rc == stay ? calibration_prune_neurons(c, stay, &p, &why) : fail(&why, ERR_INVALID, "%d stay", rc);
    if (rc < 0) {
        const bool may = was->config.router.kind != ROUTER_TWO_STAGE && !was->config.experts.shared_rows;
        report(!may, name, why.text, rc);
    } else {
        float *want = logits_of(model, r);
        const double apart = pack_apart(model, p, r, want, stay, &why);
        report(apart == 0, name, "without neurons that give nothing, the same bits", apart);
        test_others(name, model, p, experts, r, want);
        test_fitted(name, model, c, p, r);
        report(pruning_stay(&was->config, FMT_F32, PRUNE_NEURONS, 0.001, &why) == ERR_INVALID, name, why.text, 0);
        pruned++;
        free(want);
    }
    calibration_free(c);
    remove_folder(model);
}

int main(int argc, char **argv) {
    static struct names all;
    if (argc != 2) die("usage: test_neurons DATA_DIR");
    log_set_level(LOG_ERROR);
    names_read(argv[1], &all);
    for (int i = 0; i < all.count; i++) {
        char dir[1024];
        struct checkpoint c;
        struct why why;
        snprintf(dir, sizeof dir, "%s/%s", argv[1], all.name[i]);
        if (checkpoint_open(dir, &c, &why) < 0) die("%s", why.text);
        /* biases give something by themselves, and blocks have scales */
        if (c.config.moe_layers && !c.config.expert_bias && c.config.quant == FMT_COUNT && st_file_count(c.tensors) == 1) {
            struct reference ref = {0};
            void *file;
            read_reference(dir, &ref, &file);
            test_model(all.name[i], dir, &c, &ref);
            free_reference(&ref, file);
        }
        checkpoint_close(&c);
    }
    report(pruned > 10, "all", "those of which neurons were left out", pruned);
    printf("1..%d\n", passed + failed);
    return failed > 0;
}
