/* test_pack.c - a pack is written whole or gone on with, and what is wrong in one is found and named. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "model/pack.h"
#include "tests/unit/model/tiny.h"

#include "tests/unit/run.h"

#define AS(fmt) (&(struct pack_wish){.weights = (fmt)})

static const char *const models[] = {"mixtral", "gpt_oss_mxfp4", "cadre_moe_rows"};
static const struct pack_progress quiet;
static struct scratch dir;
static char out[1024], pack[1100], part[1100];
static unsigned char *whole; /* the file as it should be */
static size_t bytes;

static const char *model(int i) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", GOLDEN_DATA, models[i]);
    return path;
}

static unsigned char *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f, "%s: %s", path, strerror(errno));
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    unsigned char *data = aligned_alloc(PACK_PAGE, (*n + PACK_PAGE) / PACK_PAGE * PACK_PAGE);
    ck_assert_uint_eq(fread(data, 1, *n, f), *n);
    fclose(f);
    return data;
}

static void write_file(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void make(const char *from, enum fmt weights) {
    struct why why = {""};
    ck_assert_msg(pack_write(from, out, AS(weights), &quiet, &why) == 0, "%s", why.text);
}

static void setup(void) {
    scratch_open(&dir);
    snprintf(out, sizeof out, "%s/pack", dir.dir);
    snprintf(pack, sizeof pack, "%s/%s", out, PACK_FILE);
    snprintf(part, sizeof part, "%s.part", pack);
}

static void teardown(void) {
    char path[2048];
    DIR *d = opendir(out);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", out, e->d_name);
        unlink(path);
    }
    if (d) closedir(d);
    rmdir(out);
    free(whole);
    whole = NULL;
    scratch_remove(&dir);
}

static int open_and_check(struct why *why) {
    struct checkpoint c;
    int rc = checkpoint_open(out, &c, why);
    if (rc < 0) return rc;
    ck_assert_ptr_nonnull(c.pack);
    rc = pack_check_all(c.pack, NULL, NULL, why);
    checkpoint_close(&c);
    return rc;
}

/* Written to any length and stopped there: the next run makes the same file, and reads what it keeps. */
START_TEST(goes_on) {
    struct why why = {""};
    size_t n;
    make(model(_i), _i == 1 ? FMT_STORED : FMT_Q4);
    whole = read_file(pack, &bytes);
    ck_assert_msg(open_and_check(&why) == 0, "%s", why.text);
    for (size_t cut = 0; cut <= bytes; cut += cut < 8192 ? 2027 : 17001) {
        ck_assert_int_eq(unlink(pack), 0);
        write_file(part, whole, cut);
        make(model(_i), _i == 1 ? FMT_STORED : FMT_Q4);
        unsigned char *again = read_file(pack, &n);
        ck_assert_uint_eq(n, bytes);
        ck_assert_mem_eq(again, whole, bytes);
        free(again);
    }
    unlink(pack);
    whole[bytes / 2] ^= 1; /* a torn write may have left anything */
    write_file(part, whole, bytes);
    whole[bytes / 2] ^= 1;
    make(model(_i), _i == 1 ? FMT_STORED : FMT_Q4);
    ck_assert_msg(open_and_check(&why) == 0, "%s", why.text);
}
END_TEST

START_TEST(not_over_another) {
    struct why why = {""};
    make(model(0), FMT_BF16);
    ck_assert_int_eq(pack_write(model(0), out, AS(FMT_BF16), &quiet, &why), 1); /* it is there: done */
    ck_assert_int_eq(pack_write(model(0), out, AS(FMT_Q8), &quiet, &why), ERR_EXISTS);
    ck_assert_int_eq(pack_write(model(2), out, AS(FMT_BF16), &quiet, &why), ERR_EXISTS);
    ck_assert_int_eq(pack_write(out, dir.dir, AS(FMT_BF16), &quiet, &why), ERR_INVALID); /* of a pack */
    ck_assert_int_eq(rename(pack, part), 0);
    ck_assert_int_eq(pack_write(model(0), out, AS(FMT_Q8), &quiet, &why), ERR_EXISTS);
    ck_assert_ptr_nonnull(strstr(why.text, "remove it"));
    make(model(0), FMT_BF16);
    whole = read_file(pack, &bytes);
    write_file(pack, whole, bytes - 1); /* its name says that it is whole */
    ck_assert_int_eq(pack_write(model(0), out, AS(FMT_BF16), &quiet, &why), ERR_EXISTS);
    ck_assert_ptr_nonnull(strstr(why.text, "damaged"));
}
END_TEST

/* What a wish says beyond the format is told apart too: here where the output's matrix is. */
START_TEST(not_over_another_wish) {
    struct why why = {""};
    struct checkpoint c;
    make(model(0), FMT_Q4);
    const struct pack_wish other = {.weights = FMT_Q4, .output_too = true};
    ck_assert_int_eq(checkpoint_open(out, &c, &why), 0);
    const uint64_t wish = pack_header(c.pack)->wish;
    checkpoint_close(&c);
    ck_assert_int_eq(pack_write(model(0), out, &other, &quiet, &why), ERR_EXISTS);
    teardown();
    setup();
    ck_assert_int_eq(pack_write(model(0), out, &other, &quiet, &why), 0);
    ck_assert_int_eq(checkpoint_open(out, &c, &why), 0);
    ck_assert_uint_ne(pack_header(c.pack)->wish, wish);
    checkpoint_close(&c);
}
END_TEST

/* Said before hours of fitting, and without a trace. */
START_TEST(refused_first) {
    struct why why = {""};
    struct checkpoint c;
    struct stat st;
    char other[1024];
    memcpy(other, model(2), sizeof other); /* model()'s text lasts until the next call */
    ck_assert_int_eq(checkpoint_open(model(0), &c, &why), 0);
    ck_assert_int_eq(pack_may_begin(&c, model(0), out, FMT_Q4, &why), 0);
    ck_assert_int_eq(stat(out, &st), -1);
    make(model(0), FMT_Q4);
    ck_assert_int_eq(pack_may_begin(&c, model(0), out, FMT_Q4, &why), 0); /* it may be the same; pack_write compares */
    ck_assert_int_eq(pack_may_begin(&c, model(0), out, FMT_Q8, &why), ERR_EXISTS);
    ck_assert_int_eq(pack_may_begin(&c, model(0), model(0), FMT_Q8, &why), ERR_INVALID);
    ck_assert_int_eq(pack_may_begin(&c, model(0), other, FMT_Q8, &why), ERR_EXISTS);
    ck_assert_int_eq(rename(pack, part), 0);
    ck_assert_int_eq(pack_may_begin(&c, model(0), out, FMT_Q4, &why), 0);
    ck_assert_int_eq(pack_may_begin(&c, model(0), out, FMT_Q8, &why), ERR_EXISTS);
    ck_assert_int_eq(pruning_stay(&c.config, FMT_Q8, PRUNE_EXPERTS, 0.25, &why), c.config.gate.experts * 3 / 4);
    ck_assert_int_eq(pruning_stay(&c.config, FMT_Q8, PRUNE_EXPERTS, 0.9, &why), ERR_INVALID);
    ck_assert_int_eq(pruning_stay(&c.config, FMT_Q8, PRUNE_EXPERTS, 0, &why), ERR_INVALID);
    ck_assert_int_eq(pruning_stay(&c.config, FMT_F32, PRUNE_NEURONS, 0.5, &why), c.config.expert_ffn / 2);
    checkpoint_close(&c);
}
END_TEST

/* A folder in which a pack was begun says so, whatever else is or is not there yet. */
START_TEST(unfinished) {
    struct why why = {""};
    char config[1100];
    make(model(0), FMT_BF16);
    snprintf(config, sizeof config, "%s/config.json", out);
    ck_assert_int_eq(rename(pack, part), 0);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(open_and_check(&why), ERR_CORRUPT);
        ck_assert_msg(strstr(why.text, "is an unfinished pack: run cadre pack again"), "%s", why.text);
        unlink(config);
    }
    make(model(0), FMT_BF16);
    ck_assert_int_eq(open_and_check(&why), 0);
}
END_TEST

static void copy_model(const char *from, const char *to) {
    char path[2048];
    DIR *d = opendir(from);
    ck_assert_ptr_nonnull(d);
    ck_assert_int_eq(mkdir(to, 0755), 0);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        size_t n;
        snprintf(path, sizeof path, "%s/%s", from, e->d_name);
        unsigned char *data = read_file(path, &n);
        snprintf(path, sizeof path, "%s/%s", to, e->d_name);
        write_file(path, data, n);
        free(data);
    }
    closedir(d);
}

/* A folder that is a model's already, this one's or another's, is left as it is; so is one that a part has been put into. */
START_TEST(not_into_a_model) {
    struct why why = {""};
    struct stat st;
    char config[1100];
    size_t n;
    copy_model(model(0), out);
    snprintf(config, sizeof config, "%s/config.json", out);
    whole = read_file(config, &bytes);
    for (int i = 0; i < 3; i++) {
        if (i == 2) write_file(part, "", 0);
        ck_assert_int_eq(pack_write(i ? out : model(2), out, AS(FMT_BF16), &quiet, &why), i ? ERR_INVALID : ERR_EXISTS);
        ck_assert_msg(strstr(why.text, out), "%s", why.text);
        ck_assert_int_eq(stat(pack, &st), -1);
        ck_assert_int_eq(stat(part, &st), i == 2 ? 0 : -1);
        unsigned char *now = read_file(config, &n);
        ck_assert_uint_eq(n, bytes);
        ck_assert_mem_eq(now, whole, n);
        free(now);
    }
}
END_TEST

START_TEST(no_room) {
    struct why why = {""};
    struct rlimit limit, was;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &was), 0);
    limit = was;
    limit.rlim_cur = 50000;
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int rc = pack_write(model(0), out, AS(FMT_F32), &quiet, &why);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &was), 0);
    ck_assert_int_eq(rc, ERR_IO);
    ck_assert_msg(strstr(why.text, part) && strstr(why.text, strerror(EFBIG)), "%s", why.text);
    make(model(0), FMT_F32);
    ck_assert_msg(open_and_check(&why) == 0, "%s", why.text);
}
END_TEST

START_TEST(cut_off) {
    struct why why = {""};
    make(model(_i), FMT_BF16);
    whole = read_file(pack, &bytes);
    for (size_t n = 0; n < bytes; n += 1 + bytes / 150) {
        ck_assert_int_eq(truncate(pack, (off_t)n), 0);
        int rc = open_and_check(&why);
        ck_assert_msg(rc == ERR_CORRUPT || (!n && rc == ERR_IO), "cut at %zu: %s", n, why.text);
        ck_assert_msg(strstr(why.text, n < PACK_PAGE ? PACK_FILE : "layer "), "cut at %zu: %s", n, why.text);
        write_file(pack, whole, bytes);
    }
    write_file(pack, whole, bytes);
    ck_assert_int_eq(truncate(pack, (off_t)bytes + 1), 0);
    ck_assert_int_eq(open_and_check(&why), ERR_CORRUPT);
}
END_TEST

/* Nothing that is changed is taken for what it was: but in the gaps nothing is. */
START_TEST(changed) {
    struct why why = {""};
    unsigned seed = 5;
    struct model_config config;
    make(model(_i), _i == 1 ? FMT_STORED : FMT_Q8);
    whole = read_file(pack, &bytes);
    int found = 0, gaps = 0;
    for (int i = 0; i < 4000; i++) {
        struct pack *p;
        struct model_config c;
        ck_assert_int_eq(model_config_read(out, &config, &why), 0);
        c = config;
        size_t page = (size_t)rand_r(&seed) % (bytes / PACK_PAGE) * PACK_PAGE;
        size_t at = i % 2 ? (size_t)rand_r(&seed) % bytes : page + (size_t)rand_r(&seed) % 400; /* headers are at pages */
        unsigned char was = whole[at];
        whole[at] ^= (unsigned char)(1 << rand_r(&seed) % 8);
        if (at < PACK_PAGE && i % 3) { /* a file header that says so of itself */
            struct pack_header *h = (struct pack_header *)whole;
            h->checksum = XXH3_64bits(h, offsetof(struct pack_header, checksum));
        }
        int rc = pack_open_memory(whole, bytes, &c, &p, &why);
        if (rc >= 0) {
            rc = pack_check_all(p, NULL, NULL, &why);
            pack_close(p);
        }
        found += rc < 0;
        bool source = at >= offsetof(struct pack_header, source) && at < sizeof(struct pack_header);
        ck_assert_msg(rc < 0 || !was || source, "byte %zu was %u, and nobody sees that it is %u", at, was, whole[at]);
        gaps += rc >= 0;
        whole[at] = was;
        struct pack_header *h = (struct pack_header *)whole;
        h->checksum = XXH3_64bits(h, offsetof(struct pack_header, checksum));
    }
    ck_assert_int_gt(found, 1500);
    ck_assert_int_gt(gaps, 0);
}
END_TEST

/* docs/PACK.md: the numbers are the file's, and stay whatever the enum becomes. */
START_TEST(numbers_of_formats) {
    static const struct { enum fmt fmt; uint32_t number; } in_file[] = {
        {FMT_F32, 0}, {FMT_BF16, 1}, {FMT_Q8, 4}, {FMT_Q4, 5}, {FMT_STORED, 6}};
    struct checkpoint c;
    struct why why = {""};
    uint32_t number;
    make(model(0), in_file[_i].fmt);
    whole = read_file(pack, &bytes);
    memcpy(&number, whole + 12, sizeof number);
    ck_assert_uint_eq(number, in_file[_i].number);
    ck_assert_int_eq(checkpoint_open(out, &c, &why), 0);
    ck_assert_int_eq(pack_weights(c.pack), in_file[_i].fmt);
    checkpoint_close(&c);
    struct pack_header *h = (struct pack_header *)whole;
    for (uint32_t no = 2; no < 12; no += no == 3 ? 4 : 1) { /* but 4, 5 and 6 */
        struct model_config config;
        struct pack *p;
        h->weights = no;
        h->checksum = XXH3_64bits(h, offsetof(struct pack_header, checksum));
        ck_assert_int_eq(model_config_read(out, &config, &why), 0);
        ck_assert_int_eq(pack_open_memory(whole, bytes, &config, &p, &why), ERR_CORRUPT);
    }
}
END_TEST

struct relaying {
    const struct pack *from;
    const struct model_config *config;
    enum tensor_role role; /* this one of layer 0 as fp8 */
    unsigned char *to;
    size_t at;
};

static int lay_again(void *ctx, const struct pack_entry *e) {
    struct relaying *r = ctx;
    const struct blob_header *was = pack_blob(r->from, e->kind, e->layer, e->expert);
    size_t n = sizeof *was + was->payload_bytes;
    struct blob_header h;
    if (e->kind == BLOB_TENSOR && e->layer == 0 && e->expert == (int)r->role) {
        n = blob_describe_tensor(&h, r->config, FMT_FP8, r->role, 0);
        ck_assert_uint_gt(n, sizeof h);
        memset(r->to + r->at + sizeof h, 0, n - sizeof h);
        h.checksum = XXH3_64bits(r->to + r->at + sizeof h, n - sizeof h);
        memcpy(r->to + r->at, &h, sizeof h);
    } else {
        memcpy(r->to + r->at, was, n);
    }
    r->at += (n + PACK_PAGE - 1) / PACK_PAGE * PACK_PAGE;
    return 0;
}

/* Operations read embeddings by row and kv_b by head, from plain formats: a file that says otherwise is not believed. */
START_TEST(fp8_where_it_may_be) {
    static const struct { enum tensor_role role; int rc; } is[] = {
        {T_O, 0}, {T_EMBED, ERR_CORRUPT}, {T_LM_HEAD, ERR_CORRUPT}, {T_KV_B, ERR_CORRUPT}};
    struct checkpoint c;
    struct pack *p;
    struct why why = {""};
    struct model_config config;
    char path[1024];
    snprintf(path, sizeof path, "%s/deepseek_v3_fp8", GOLDEN_DATA);
    make(path, FMT_STORED);
    ck_assert_int_eq(checkpoint_open(out, &c, &why), 0);
    whole = calloc(1, 2 * pack_header(c.pack)->bytes);
    struct relaying r = {c.pack, &c.config, is[_i].role, whole, PACK_PAGE};
    pack_walk(&c.config, lay_again, &r);
    struct pack_header h = *pack_header(c.pack);
    h.bytes = r.at;
    h.checksum = XXH3_64bits(&h, offsetof(struct pack_header, checksum));
    memcpy(whole, &h, sizeof h);
    checkpoint_close(&c);
    unsigned char *data = aligned_alloc(PACK_PAGE, r.at);
    memcpy(data, whole, r.at);
    ck_assert_int_eq(model_config_read(out, &config, &why), 0);
    int rc = pack_open_memory(data, r.at, &config, &p, &why);
    ck_assert_msg(rc == is[_i].rc, "%d: %s", rc, why.text);
    if (rc >= 0) pack_close(p);
    free(data);
}
END_TEST

/* Which blob, and where. */
START_TEST(named) {
    struct why why = {""};
    struct checkpoint c;
    char where[64];
    make(model(0), FMT_BF16);
    whole = read_file(pack, &bytes);
    ck_assert_int_eq(checkpoint_open(out, &c, &why), 0);
    const struct blob_header *first = checkpoint_blob(&c, BLOB_TENSOR, 0, T_EMBED), *b = checkpoint_blob(&c, BLOB_EXPERT, 1, 3);
    size_t at = PACK_PAGE + (size_t)((const char *)b - (const char *)first);
    checkpoint_close(&c);
    whole[at + 1000] ^= 4;
    write_file(pack, whole, bytes);
    ck_assert_int_eq(open_and_check(&why), ERR_CORRUPT);
    snprintf(where, sizeof where, "layer 1, expert 3 (byte %zu", at);
    ck_assert_msg(strstr(why.text, where) && strstr(why.text, pack), "'%s' does not say '%s'", why.text, where);
}
END_TEST

START_TEST(weights_that_are_meant) {
    struct why why = {""};
    struct checkpoint c;
    enum fmt fmt;
    make(model(0), FMT_Q8);
    ck_assert_int_eq(checkpoint_open(out, &c, &why), 0);
    ck_assert_int_eq(checkpoint_weights(&c, "auto", &fmt, &why), 0);
    ck_assert_int_eq(fmt, FMT_Q8);
    ck_assert_int_eq(checkpoint_weights(&c, "q8", &fmt, &why), 0);
    ck_assert_int_eq(checkpoint_weights(&c, "bf16", &fmt, &why), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(why.text, "q8"));
    checkpoint_close(&c);
    ck_assert_int_eq(checkpoint_open(model(0), &c, &why), 0);
    ck_assert_int_eq(checkpoint_weights(&c, "auto", &fmt, &why), 0);
    ck_assert_int_eq(fmt, FMT_BF16);
    ck_assert_int_eq(checkpoint_weights(&c, "q5", &fmt, &why), ERR_INVALID);
    checkpoint_close(&c);
}
END_TEST

int main(void) {
    Suite *s = suite_create("pack");
    TCase *t = tcase_create("pack");
    tcase_set_timeout(t, 100);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, goes_on, 0, 3);
    tcase_add_test(t, not_over_another);
    tcase_add_test(t, not_over_another_wish);
    tcase_add_test(t, refused_first);
    tcase_add_test(t, unfinished);
    tcase_add_test(t, not_into_a_model);
    tcase_add_test(t, no_room);
    tcase_add_loop_test(t, cut_off, 0, 3);
    tcase_add_loop_test(t, changed, 0, 3);
    tcase_add_loop_test(t, numbers_of_formats, 0, 5);
    tcase_add_loop_test(t, fp8_where_it_may_be, 0, 4);
    tcase_add_test(t, named);
    tcase_add_test(t, weights_that_are_meant);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
