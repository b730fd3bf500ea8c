/* test_rank.c - who runs the coordinator and where the others go, from what launchers say; endpoints told through a file. */
#include "cli/rank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/run.h"

enum { PAIRS = 10 };
struct environment {
    const char *names[PAIRS], *values[PAIRS];
};
#define ENV(...) .env.names = {__VA_ARGS__}
#define AS(...)  .env.values = {__VA_ARGS__}
#define MPI                                                                                                                    \
    "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"
#define STEP "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST"

static const struct row {
    const char *what;
    struct rank_options o;
    struct environment env;
    enum { NO, YES } several;
    enum { OTHER, HEAD, REFUSED } role;
    const char *place; /* of the endpoints; a word of the refusal */
} rows[] = {
    {"alone", {-1, -1, "auto"}, .several = NO},
    {"in a batch script", {-1, -1, "auto"}, ENV("SLURM_PROCID", "SLURM_NTASKS"), AS("0", "4"), .several = NO},
    {"the only rank", {-1, -1, "auto"}, ENV(MPI), AS("0", "0", "1", "0", "1"), .several = NO},
    {"told to start the workers", {-1, -1, "srun"}, ENV(STEP), AS("0", "4", "0", "2", "n[1-2]"), .several = NO},
    {"mpirun here",
     {-1, -1, "auto"},
     ENV(MPI, "PMIX_SERVER_TMPDIR"),
     AS("0", "0", "2", "0", "2", "/tmp/o"),
     YES,
     HEAD,
     "/tmp/o/cadre-endpoints"},
    {"mpirun here, another",
     {-1, -1, "auto"},
     ENV(MPI, "PMIX_SERVER_TMPDIR"),
     AS("1", "1", "2", "1", "2", "/tmp/o"),
     YES,
     OTHER,
     "/tmp/o/cadre-endpoints"},
    {"mpirun here, told where",
     {-1, -1, "auto", NULL, "tcp://127.0.0.1:7000"},
     ENV(MPI, "PMIX_SERVER_TMPDIR"),
     AS("1", "1", "2", "1", "2", "/tmp/o"),
     YES,
     OTHER,
     "/tmp/o/cadre-endpoints"},
    {"mpirun over hosts",
     {-1, -1, "auto"},
     ENV(MPI, "PMIX_SERVER_TMPDIR"),
     AS("1", "1", "2", "0", "1", "/tmp/o"),
     YES,
     REFUSED,
     "--endpoint-file"},
    {"rank 0 too", {-1, -1, "auto"}, ENV(MPI), AS("0", "0", "2", "0", "1"), YES, REFUSED, "rank 0 of 2"},
    {"with a file", {-1, -1, "auto", "/s/e"}, ENV(MPI), AS("1", "1", "2", "0", "1"), YES, OTHER, "/s/e"},
    {"with a fixed address",
     {-1, -1, "auto", NULL, "tcp://10.0.0.1:7000"},
     ENV(MPI),
     AS("1", "1", "2", "0", "1"),
     YES,
     OTHER,
     "tcp://10.0.0.1:7000"},
    {"any interface is no address",
     {-1, -1, "auto", NULL, "tcp://*:7000"},
     ENV(MPI),
     AS("1", "1", "2", "0", "1"),
     YES,
     REFUSED,
     "--control"},
    {"any port is none either",
     {-1, -1, "auto", NULL, "tcp://10.0.0.1:*"},
     ENV(MPI),
     AS("1", "1", "2", "0", "1"),
     YES,
     REFUSED,
     "--control"},
    {"a host chosen, here",
     {-1, -1, "auto", NULL, NULL, "n2", "n2.site"},
     ENV(MPI),
     AS("3", "3", "4", "0", "2"),
     YES,
     HEAD,
     "tcp://n2:5771"},
    {"a host chosen, its second",
     {-1, -1, "auto", NULL, NULL, "n2", "n2"},
     ENV(MPI),
     AS("0", "0", "4", "1", "2"),
     YES,
     OTHER,
     "tcp://n2:5771"},
    {"a host chosen, elsewhere",
     {-1, -1, "auto", NULL, "tcp://*:88", "n2", "n20"},
     ENV(MPI),
     AS("0", "0", "4", "0", "2"),
     YES,
     OTHER,
     "tcp://n2:88"},
    {"a host chosen by hand", {0, 2, "auto", "/s/e", NULL, "n2", "n2"}, .several = YES, .role = REFUSED, .place = "--rank"},
    {"srun", {-1, -1, "auto"}, ENV(STEP), AS("0", "4", "0", "2", "n[03-04,7]"), YES, HEAD, "tcp://n03:5771"},
    {"srun on one host", {-1, -1, "auto"}, ENV(STEP), AS("1", "4", "1", "1", "n3"), YES, OTHER, "tcp://127.0.0.1:5771"},
    {"srun, another", {-1, -1, "auto"}, ENV(STEP), AS("3", "4", "1", "2", "a,b"), YES, OTHER, "tcp://a:5771"},
    {"srun, of many jobs",
     {-1, -1, "auto"},
     ENV(STEP, "SLURM_JOB_ID", "SLURM_STEP_ID"),
     AS("3", "4", "1", "2", "a,b", "2501", "2"),
     YES,
     OTHER,
     "tcp://a:10011"},
    {"srun, to loopback from elsewhere",
     {-1, -1, "auto", NULL, "tcp://127.0.0.1:7000"},
     ENV(STEP),
     AS("3", "4", "1", "2", "a,b"),
     YES,
     REFUSED,
     "only ranks of its own host"},
    {"srun, a rack's hosts",
     {-1, -1, "auto", NULL, "tcp://*:9"},
     ENV(STEP),
     AS("3", "4", "1", "2", "r[2,5]n,b"),
     YES,
     OTHER,
     "tcp://r2n:9"},
    {"srun --mpi=pmix on one host",
     {-1, -1, "auto"},
     ENV("PMIX_RANK", "PMIX_SERVER_TMPDIR", STEP),
     AS("1", "/spool/p", "1", "2", "1", "1", "n1"),
     YES,
     OTHER,
     "/spool/p/cadre-endpoints"},
    {"srun --mpi=pmix",
     {-1, -1, "auto"},
     ENV("PMIX_RANK", "PMIX_SERVER_TMPDIR", STEP),
     AS("0", "/spool/p", "0", "2", "0", "2", "n[1-2]"),
     YES,
     HEAD,
     "tcp://n1:5771"},
    {"mpirun inside a step of another shape",
     {-1, -1, "auto"},
     ENV(MPI, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"),
     AS("5", "5", "6", "1", "2", "0", "3", "n[1-3]"),
     YES,
     REFUSED,
     "--endpoint-file"},
    {"mpirun in a job, whose daemon's task has our number",
     {-1, -1, "auto"},
     ENV("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"),
     AS("1", "2", "1", "2", "n[2-3]"),
     YES,
     REFUSED,
     "--endpoint-file"},
    {"by hand", {2, 3, "auto", "/s/e"}, .several = YES, .role = OTHER, .place = "/s/e"},
    {"by hand, half of it", {2, -1, "auto", "/s/e"}, .several = YES, .role = REFUSED, .place = "--size"},
    {"by hand, without a place", {1, 2, "auto"}, .several = YES, .role = REFUSED, .place = "--endpoint-file"},
};

static const char *lookup(void *ctx, const char *name) {
    const struct environment *e = ctx;
    for (int i = 0; i < PAIRS && e->names[i]; i++)
        if (!strcmp(e->names[i], name)) return e->values[i];
    return NULL;
}

START_TEST(roles) {
    const struct row *r = &rows[_i];
    struct environment env = r->env;
    struct rank_options o = r->o;
    struct rank got;
    struct why why;
    if (!o.host) o.host = "here";
    ck_assert_msg(rank_is(&o, lookup, &env) == (r->several == YES), "%s: several", r->what);
    if (!r->several) return;
    int rc = rank_find(&o, lookup, &env, &got, &why);
    ck_assert_msg((rc < 0) == (r->role == REFUSED), "%s: %d", r->what, rc);
    if (rc < 0) {
        ck_assert_msg(strstr(why.text, r->place) && !strchr(why.text, '\n'), "%s: %s", r->what, why.text);
        return;
    }
    ck_assert_msg(got.head == (r->role == HEAD), "%s: head", r->what);
    ck_assert_msg(!strcmp(got.file[0] ? got.file : got.address, r->place), "%s: %s%s", r->what, got.file, got.address);
    const char *all = lookup(&env, "OMPI_COMM_WORLD_SIZE"), *here = lookup(&env, "OMPI_COMM_WORLD_LOCAL_SIZE");
    ck_assert_msg(got.inner == (all && here && !strcmp(all, here)), "%s: room for another mpirun", r->what);
    ck_assert_msg(got.tells == (got.head && got.file[0]), "%s: tells", r->what);
}
END_TEST

START_TEST(only_this_launch_is_believed) {
    char file[] = "/tmp/test_rank.XXXXXX";
    struct environment env = {{"PMIX_NAMESPACE", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"}, {"a b", "7", "0"}};
    struct environment later = {{"PMIX_NAMESPACE", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"}, {"a b", "7", "1"}};
    struct rank_options first = {0, 2, "auto", file, NULL, NULL, "here"}, second = {1, 2, "auto", file, NULL, NULL, "here"};
    struct rank head, other;
    struct why why;
    int fd = mkstemp(file);
    ck_assert(fd >= 0 && write(fd, "what is this\n", 13) == 13);
    close(fd);
    ck_assert(rank_find(&first, lookup, &env, &head, &why) >= 0);
    ck_assert(rank_find(&second, lookup, &env, &other, &why) >= 0);
    ck_assert(rank_look(&other, &why) == ERR_INVALID && strstr(why.text, file));
    rank_forget(&other); /* not its own */
    ck_assert(!access(file, F_OK));
    rank_forget(&head);
    ck_assert_int_eq(rank_look(&other, &why), 0);
    ck_assert_int_eq(rank_tell(&head, "tcp://h:1", "tcp://h:2", &why), 0);
    ck_assert_int_eq(rank_look(&other, &why), 1);
    ck_assert_str_eq(other.address, "tcp://h:2");
    ck_assert(rank_find(&second, lookup, &later, &other, &why) >= 0);
    ck_assert_int_eq(rank_look(&other, &why), 0);
    rank_forget(&head);
    ck_assert(access(file, F_OK));
    ck_assert(rank_tell(&(struct rank){.file = "/nowhere/at/all", .tells = true}, "a", "b", &why) == ERR_IO);
    ck_assert(strstr(why.text, "/nowhere/at/all"));
}
END_TEST

int main(void) {
    Suite *s = suite_create("rank");
    TCase *t = tcase_create("rank");
    tcase_add_loop_test(t, roles, 0, sizeof rows / sizeof rows[0]);
    tcase_add_test(t, only_this_launch_is_believed);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
