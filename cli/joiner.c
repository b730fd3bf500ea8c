/* joiner.c - see joiner.h. */
#include "cli/joiner.h"

#include <poll.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clk.h"
#include "cli/cli.h"
#include "cli/reach.h"

enum { LOOK_EVERY_MS = 50, PATIENCE_S = 60 }; /* launchers start all ranks within seconds, and a coordinator listens at once */

/* One that an earlier launch left, when that was killed, says where nobody is any more. */
static int look(struct rank *r, struct why *why) {
    bool known = r->address[0]; /* without a file: the coordinator may not have begun */
    int rc = rank_look(r, why);
    if (rc <= 0 || known || !reach_refused(r->address)) return rc;
    r->address[0] = 0;
    return 0;
}

/* Files on shared storage tell nobody that they have come. */
static int wait_for_address(struct rank *r, struct why *why) {
    int64_t until = clk_now_us() + PATIENCE_S * 1000000LL;
    int rc;
    while (!(rc = look(r, why)) && clk_now_us() < until) poll(NULL, 0, LOOK_EVERY_MS);
    if (rc) return rc < 0 ? rc : 0;
    return fail(
        why, ERR_DEADLINE,
        "rank %d of %d (by %s) waited %d s for the coordinator's address in %.300s; does the rank that runs it live, and "
        "do all hosts see this file?",
        r->id.rank, r->id.size, r->id.from, PATIENCE_S, r->file);
}

int joiner_run(struct rank *r, struct fleet_options *f) {
    struct why why;
    int rc = wait_for_address(r, &why);
    f->control = r->address;
    if (rc >= 0) return fleet_keep(f);
    fprintf(stderr, "cadre serve: %s\n", why.text);
    return EXIT_FAILED;
}

int joiner_wait(struct rank *r) {
    struct why why;
    child_deafen();
    if (wait_for_address(r, &why) < 0) {
        fprintf(stderr, "cadre serve: %s\n", why.text);
        return EXIT_FAILED;
    }
    struct pollfd head = {.fd = (int)syscall(SYS_pidfd_open, (pid_t)r->head_pid, 0), .events = POLLIN};
    while (head.fd >= 0 && poll(&head, 1, -1) < 1) continue;
    if (head.fd >= 0) close(head.fd);
    return EXIT_DONE; /* how it ended the head itself has told its launcher */
}
