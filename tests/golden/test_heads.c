/* test_heads.c - what confidence heads say of their experts' outputs reaches the home, against tools/golden/expert_oracle.py;
 * the same bits in every chunking.
 *
 * usage: test_heads DATA_DIR */
#include "tests/golden/names.h"
#include "tests/golden/runner.h"

#include <math.h>
#include <string.h>

static int passed, failed;
static void report(bool ok, const char *name, const char *isa, int chunk, double worst) {
    *(ok ? &passed : &failed) += 1;
    printf("%s %d - %s %s chunks of %d: %.2e\n", ok ? "ok" : "not ok", passed + failed, name, isa, chunk, worst);
}

static const struct st_tensor *need(const struct st_set *set, const char *name) {
    const struct st_tensor *t = st_find(set, name);
    if (!t) die("heads.safetensors lacks %s", name);
    return t;
}

/* Of the last layer, which is the one that the gate still knows afterwards. */
static void run(const char *dir, const char *isa, int chunk, const int32_t *ids, int T, float *out) {
    struct runner r;
    struct why why;
    if (runner_open(&r, dir, &(struct runner_options){.isa = isa, .threads = 2, .weights = FMT_F32}, &why) < 0)
        die("%s", why.text);
    for (int first = 0, n; first < T; first += n) {
        n = chunk && chunk < T - first ? chunk : T - first;
        if (solo_chunk(&r.solo, ids, first, n) < 0) die("%s: the forward pass failed", dir);
        memcpy(out + first, r.solo.moe.lane[0].gating.confidence, (size_t)n * sizeof *out);
    }
    runner_close(&r);
}

static void test_checkpoint(const char *name, const char *dir, const struct st_set *set) {
    static const char *const isas[] = {"ref", "avx2", "avx512"};
    static const int chunks[] = {0, 1, 5};
    const struct st_tensor *said = need(set, "confidence");
    int T = (int)said->shape[1], layers = (int)said->shape[0];
    float got[RUNNER_MAX_TOKENS], whole[RUNNER_MAX_TOKENS], want[RUNNER_MAX_TOKENS];
    int32_t ids[RUNNER_MAX_TOKENS];
    if (T > RUNNER_MAX_TOKENS) die("%s: %d tokens are too many", dir, T);
    memcpy(ids, need(set, "ids")->data, (size_t)T * sizeof *ids);
    memcpy(want, (const char *)said->data + (size_t)(layers - 1) * (size_t)T * sizeof *want, (size_t)T * sizeof *want);
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        struct backend *b;
        struct why why;
        if (backend_open(&(struct backend_options){.isa = isas[i], .threads = 1}, &b, &why) < 0) continue;
        backend_close(b);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            double worst = 0;
            run(dir, isas[i], chunks[c], ids, T, c ? got : whole);
            for (int t = 0; t < T; t++) worst = fmax(worst, fabs((double)(c ? got : whole)[t] - (double)want[t]));
            report(worst < 2e-5 && (!c || !memcmp(got, whole, (size_t)T * sizeof *got)), name, isas[i], chunks[c], worst);
        }
    }
}

int main(int argc, char **argv) {
    static struct names all;
    static unsigned char file[1 << 16];
    if (argc != 2) die("usage: test_heads DATA_DIR");
    names_read(argv[1], &all);
    for (int i = 0; i < all.count; i++) {
        char dir[1024], path[1100];
        struct st_set *set;
        struct why why;
        snprintf(dir, sizeof dir, "%s/%s", argv[1], all.name[i]);
        snprintf(path, sizeof path, "%s/heads.safetensors", dir);
        FILE *f = fopen(path, "rb");
        if (!f) continue;
        size_t bytes = fread(file, 1, sizeof file, f);
        fclose(f);
        if (st_open_memory(file, bytes, &set, &why) < 0) die("%s: %s", path, why.text);
        test_checkpoint(all.name[i], dir, set);
        st_close(set);
    }
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0 || !passed;
}
