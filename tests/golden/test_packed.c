/* test_packed.c - the tiny checkpoints of every family, served from a pack: the same bits of every logit as from the checkpoint
 * held in the same format, and nothing but vectors of other precision copied.
 *
 * usage: test_packed DATA_DIR */
#include "tests/golden/names.h"
#include "tests/golden/reference.h"
#include "tests/golden/runner.h"

#include "base/log.h"
#include "model/pack.h"

static int passed, failed;
static void report(bool ok, const char *name, enum fmt fmt, const char *what) {
    *(ok ? &passed : &failed) += 1;
    printf("%s %d - %s as %s: %s\n", ok ? "ok" : "not ok", passed + failed, name, fmt_name(fmt), what);
}

static void logits(const char *dir, const struct reference *ref, enum fmt fmt, float *out[PROMPTS], struct runner *r) {
    struct why why;
    if (runner_open(r, dir, &(struct runner_options){.isa = "auto", .threads = 2, .weights = fmt}, &why) < 0)
        die("%s", why.text);
    for (int p = 0; p < PROMPTS; p++) {
        out[p] = calloc((size_t)ref->T[p] * (size_t)ref->V, sizeof *out[p]);
        if (!out[p] || runner_logits(r, ref->ids[p], ref->T[p], 0, out[p]) < 0) die("the forward pass failed");
    }
}

static const struct pack_progress quiet = {0};

static void remove_pack(const char *dir, const char *from) {
    struct dirent **entries;
    char path[1200];
    int n = scandir(from, &entries, NULL, NULL);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, entries[i]->d_name);
        unlink(path);
        free(entries[i]);
    }
    if (n >= 0) free(entries);
    snprintf(path, sizeof path, "%s/%s", dir, PACK_FILE);
    unlink(path);
    rmdir(dir);
}

static void test_format(const char *name, const char *dir, const struct reference *ref, enum fmt fmt) {
    float *plain[PROMPTS], *packed[PROMPTS];
    struct runner r;
    struct why why;
    char folder[] = "/tmp/test_packed.XXXXXX";
    bool same = true;
    if (!mkdtemp(folder)) die("no folder for a pack");
    if (pack_write(dir, folder, &(struct pack_wish){.weights = fmt}, &quiet, &why) < 0) die("%s", why.text);
    logits(dir, ref, fmt, plain, &r);
    runner_close(&r);
    logits(folder, ref, fmt, packed, &r);
    const struct solo *s = &r.solo;
    report(s->store.mapped == s->store.bytes && !s->store.held && s->weights.mapped_bytes == s->weights.bytes, name, fmt,
           "all is mapped");
    runner_close(&r);
    remove_pack(folder, dir);
    for (int p = 0; p < PROMPTS; p++) {
        same &= !memcmp(plain[p], packed[p], (size_t)ref->T[p] * (size_t)ref->V * sizeof(float));
        free(plain[p]);
        free(packed[p]);
    }
    report(same, name, fmt, "the bits of the checkpoint");
}

/* Tensors outside of experts have one source only: a worker that finds one damaged does not compute with it. */
static void test_damaged(const char *name, const char *dir) {
    static const enum tensor_role roles[] = {T_EMBED, T_ROUTER, T_FFN_NORM};
    struct runner r;
    struct checkpoint c;
    struct why why;
    char folder[] = "/tmp/test_packed.XXXXXX", path[64], wanted[64];
    if (!mkdtemp(folder)) die("no folder for a pack");
    if (pack_write(dir, folder, &(struct pack_wish){.weights = FMT_BF16}, &quiet, &why) < 0) die("%s", why.text);
    snprintf(path, sizeof path, "%s/%s", folder, PACK_FILE);
    for (int i = 0; i < 3; i++) {
        if (checkpoint_open(folder, &c, &why) < 0) die("%s", why.text);
        const char *first = (const char *)checkpoint_blob(&c, BLOB_TENSOR, 0, T_EMBED); /* the first of the file */
        long at = PACK_PAGE + ((const char *)checkpoint_blob(&c, BLOB_TENSOR, 0, (int)roles[i]) - first);
        checkpoint_close(&c);
        FILE *f = fopen(path, "r+b");
        if (!f || fseek(f, at + (long)sizeof(struct blob_header), SEEK_SET)) die("no %s", path);
        int was = fgetc(f);
        if (fseek(f, -1, SEEK_CUR) || fputc(was ^ 16, f) < 0 || fflush(f)) die("cannot change %s", path);
        int rc = runner_open(&r, folder, &(struct runner_options){.isa = "auto", .threads = 1, .weights = FMT_BF16}, &why);
        runner_close(&r);
        snprintf(wanted, sizeof wanted, "role %d (byte %ld", (int)roles[i], at);
        report(rc == ERR_CORRUPT && strstr(why.text, wanted), name, FMT_BF16, "a damaged tensor is named, not used");
        if (fseek(f, at + (long)sizeof(struct blob_header), SEEK_SET) || fputc(was, f) < 0 || fclose(f))
            die("cannot change %s", path);
    }
    remove_pack(folder, dir);
}

int main(int argc, char **argv) {
    static const enum fmt formats[][2] = {{FMT_BF16, FMT_Q4}, {FMT_STORED, FMT_Q8}, {FMT_F32, FMT_STORED}};
    static struct names all;
    if (argc != 2) die("usage: test_packed DATA_DIR");
    log_set_level(LOG_ERROR);
    names_read(argv[1], &all);
    for (int i = 0; i < all.count; i++) {
        char dir[1024];
        void *file;
        struct reference ref = {0};
        snprintf(dir, sizeof dir, "%s/%s", argv[1], all.name[i]);
        read_reference(dir, &ref, &file);
        for (int k = 0; k < 2; k++) test_format(all.name[i], dir, &ref, formats[i % 3][k]);
        free_reference(&ref, file);
        if (!strcmp(all.name[i], "mixtral")) test_damaged(all.name[i], dir);
    }
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0;
}
