/* test_boot.c - rank and size from command lines and launchers, as a table. */
#include "fabric/boot.h"

#include <string.h>

#include "tests/unit/run.h"

enum { PAIRS = 8 };
struct row {
    const char *what;
    int64_t rank, size; /* command line */
    const char *names[PAIRS], *values[PAIRS];
    int want_rank, want_size; /* size 0: refused */
    const char *says;         /* who said it; a word of the refusal */
};
#define ENV(...) .names = {__VA_ARGS__}
#define AS(...)  .values = {__VA_ARGS__}

static const struct row rows[] = {
    {"said", 2, 4, .want_rank = 2, .want_size = 4, .says = "--rank"},
    {"alone", 0, 1, .want_rank = 0, .want_size = 1, .says = "--rank"},
    {"said wins", 1, 3, ENV("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), AS("5", "5", "8"), 1, 3, "--rank"},
    {"mpirun", -1, -1, ENV("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), AS("3", "6"), 3, 6, "Open MPI"},
    {"mpirun with PMIx", -1, -1, ENV("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), AS("3", "3", "6"), 3, 6,
     "PMIx"},
    {"srun --mpi=pmix", -1, -1, ENV("PMIX_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), AS("1", "1", "2"), 1, 2, "PMIx"},
    {"srun", -1, -1, ENV("SLURM_PROCID", "SLURM_NTASKS"), AS("0", "2"), 0, 2, "Slurm"},
    {"a step smaller than its job", -1, -1, ENV("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"), AS("1", "8", "2"), 1,
     2, "Slurm"},
    {"srun --mpi=pmi2", -1, -1, ENV("PMI_RANK", "PMI_SIZE"), AS("7", "8"), 7, 8, "PMI"},
    {"mpirun inside a Slurm job", -1, -1, ENV("SLURM_PROCID", "SLURM_NTASKS", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
     AS("0", "2", "5", "6"), 5, 6, "Open MPI"},
    {"PMIx inside a Slurm job of another shape", -1, -1, ENV("PMIX_RANK", "SLURM_PROCID", "SLURM_NTASKS"), AS("4", "0", "2"),
     .says = "--size"},
    {"rank said, size by the launcher of that rank", 2, -1, ENV("SLURM_PROCID", "SLURM_NTASKS"), AS("2", "4"), 2, 4, "--rank"},
    {"rank said, a launcher of another", 1, -1, ENV("SLURM_PROCID", "SLURM_NTASKS"), AS("2", "4"), .says = "--size"},
    {"size said, rank by the launcher", -1, 5, ENV("PMIX_RANK"), AS("4"), 4, 5, "PMIx"},
    {"the largest cluster", -1, -1, ENV("PMI_RANK", "PMI_SIZE"), AS("63", "64"), 63, 64, "PMI"},
    {"nothing", -1, -1, .says = "SLURM_PROCID"},
    {"only a size", -1, 4, .says = "PMIX_RANK"},
    {"only a rank", 0, -1, .says = "OMPI_COMM_WORLD_SIZE"},
    {"a rank without a size", -1, -1, ENV("PMIX_RANK"), AS("0"), .says = "--size"},
    {"words", -1, -1, ENV("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), AS("one", "2"), .says = "'one'"},
    {"empty", -1, -1, ENV("PMIX_RANK"), AS(""), .says = "PMIX_RANK"},
    {"negative", -1, -1, ENV("PMI_RANK", "PMI_SIZE"), AS("-1", "4"), .says = "'-1'"},
    {"a number and more", -1, -1, ENV("PMI_RANK", "PMI_SIZE"), AS("1", "4(x2)"), .says = "PMI_SIZE"},
    {"larger than any number", -1, -1, ENV("PMI_RANK", "PMI_SIZE"), AS("0", "99999999999999999999"), .says = "PMI_SIZE"},
    {"rank beyond", 4, 4, .says = "rank 4"},
    {"rank beyond, by a launcher", -1, -1, ENV("PMI_RANK", "PMI_SIZE"), AS("4", "4"), .says = "by PMI"},
    {"too many", 0, 65, .says = "65 workers"},
    {"none", 0, 0, .says = "0 workers"},
};

static const char *lookup(void *ctx, const char *name) {
    const struct row *r = ctx;
    for (int i = 0; i < PAIRS && r->names[i]; i++)
        if (!strcmp(r->names[i], name)) return r->values[i];
    return NULL;
}

START_TEST(table) {
    const struct row *r = &rows[_i];
    struct boot_id id = {.from = ""};
    struct why why = {""};
    int rc = boot_find(r->rank, r->size, lookup, (void *)r, &id, &why);
    ck_assert_msg((rc == 0) == (r->want_size > 0), "%s: %d %s", r->what, rc, why.text);
    if (rc < 0) {
        ck_assert_int_eq(rc, strstr(why.text, "which worker") ? ERR_NOT_FOUND : ERR_INVALID);
        ck_assert_msg(strstr(why.text, r->says), "%s: '%s' does not say '%s'", r->what, why.text, r->says);
        return;
    }
    ck_assert_msg(id.rank == r->want_rank && id.size == r->want_size, "%s: rank %d of %d", r->what, id.rank, id.size);
    ck_assert_str_eq(id.from, r->says);
}
END_TEST

START_TEST(environment) {
    const char *path = boot_environment(NULL, "PATH");
    ck_assert_ptr_nonnull(path);
    ck_assert_ptr_null(boot_environment(NULL, "PAT"));
    ck_assert_ptr_null(boot_environment(NULL, "NO_SUCH_VARIABLE"));
}
END_TEST

int main(void) {
    Suite *s = suite_create("boot");
    TCase *t = tcase_create("boot");
    tcase_add_loop_test(t, table, 0, sizeof rows / sizeof rows[0]);
    tcase_add_test(t, environment);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
