/* test_host.c - the word for a host: the same in every process of it, another one under another name. */
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fabric/host.h"

#include "tests/unit/run.h"

/* What a child says, with another host name if it may take one; "" when it may not. */
static void host_of_child(const char *name, char out[HOST_ID_BYTES]) {
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        char id[HOST_ID_BYTES] = "";
        if (!name || (unshare(CLONE_NEWUTS) == 0 && sethostname(name, strlen(name)) == 0)) fabric_host_id(id);
        _exit(write(ends[1], id, sizeof id) == sizeof id ? 0 : 1);
    }
    int status = 1;
    ck_assert_int_eq(read(ends[0], out, HOST_ID_BYTES), HOST_ID_BYTES);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    close(ends[0]);
    close(ends[1]);
}

START_TEST(same_for_all_processes) {
    char mine[HOST_ID_BYTES], other[HOST_ID_BYTES];
    fabric_host_id(mine);
    ck_assert_ptr_nonnull(memchr(mine, '\0', sizeof mine));
    ck_assert_uint_gt(strlen(mine), 17);
    host_of_child(NULL, other);
    ck_assert_str_eq(mine, other);
}
END_TEST

START_TEST(another_name_is_another_host) {
    char mine[HOST_ID_BYTES], other[HOST_ID_BYTES];
    fabric_host_id(mine);
    host_of_child("h-1234567890-1234567890-1234567890-1234567890-1234567890", other);
    ck_assert_str_ne(mine, other);
    ck_assert_ptr_nonnull(memchr(other, '\0', sizeof other));
}
END_TEST

RUN("host", NULL, NULL, same_for_all_processes, another_name_is_another_host)
