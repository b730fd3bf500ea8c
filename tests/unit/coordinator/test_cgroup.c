/* test_cgroup.c - what a made-up tree of control groups leaves. */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "coordinator/cgroup.h"
#include "tests/unit/run.h"

static char root[64], self[128];

static void make_root(void) {
    snprintf(root, sizeof root, "/tmp/test_cgroup.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    snprintf(self, sizeof self, "%s/self", root);
}
static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}
static void remove_root(void) { nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

static void say(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}
static void group(const char *name, const char *most, const char *used, const char *stat) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/memory.max", name);
    say(path, most);
    snprintf(path, sizeof path, "%s/memory.current", name);
    say(path, used);
    snprintf(path, sizeof path, "%s/memory.stat", name);
    if (stat) say(path, stat);
}

START_TEST(the_tightest_counts) {
    say("self", "3:memory:/elsewhere\n0::/job/step\n");
    group("job", "1000\n", "400\n", "anon 100\ninactive_file 200\nactive_file 50\n");
    group("job/step", "max\n", "300\n", NULL);
    ck_assert_uint_eq(cgroup_room(self, root), 1000 - (400 - 250));
    group("job/step", "700\n", "300\n", NULL);
    ck_assert_uint_eq(cgroup_room(self, root), 400);
    group("job/step", "200\n", "300\n", "inactive_file 10\n");
    ck_assert_uint_eq(cgroup_room(self, root), 0);
}
END_TEST

START_TEST(no_limit) {
    ck_assert_uint_eq(cgroup_room(self, root), UINT64_MAX); /* there is no such file */
    say("self", "1:cpu:/\n");
    ck_assert_uint_eq(cgroup_room(self, root), UINT64_MAX);
    say("self", "0::/\n");
    ck_assert_uint_eq(cgroup_room(self, root), UINT64_MAX);
    say("self", "0::/job\n");
    group("job", "max\n", "400\n", NULL);
    ck_assert_uint_eq(cgroup_room(self, root), UINT64_MAX);
    group("job", "\n", "\n", "");
    ck_assert_uint_eq(cgroup_room(self, root), UINT64_MAX);
}
END_TEST

RUN("cgroup", make_root, remove_root, the_tightest_counts, no_limit)
