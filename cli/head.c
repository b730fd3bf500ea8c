/* head.c - see head.h. */
#include "cli/head.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/argv.h"

static int start(struct head *h, const struct head_options *ho, int endpoint_fd, struct why *why) {
    const struct serve_options *o = ho->o;
    struct argv a = {.n = 0};
    char program[4096];
    child_find("cadre-coordinator", "coordinator", program, sizeof program);
    argv_add(&a, program);
    argv_add(&a, ho->model);
    argv_add_number(&a, "--workers", o->workers);
    argv_add_number(&a, "--max-workers", o->max_workers);
    argv_add_text(&a, "--listen", ho->listen);
    argv_add_text(&a, "--control", ho->control);
    if (ho->rank) argv_add(&a, "--supervised");
    h->child->deaf = ho->rank; /* beyond those that it looks at */
    argv_add_number(&a, "--endpoint-fd", endpoint_fd);
    argv_add_text(&a, "--key", o->key);
    argv_add_text(&a, "--fabric", o->fabric);
    argv_add_text(&a, "--on-death", ho->recover ? "recover" : "end");
    argv_add_text(&a, "--weights", o->weights);
    argv_add_text(&a, "--kv", o->kv);
    argv_add_text(&a, "--isa", o->isa);
    argv_add_text(&a, "--mla", o->mla);
    argv_add_text(&a, "--payload", o->payload);
    argv_add_text(&a, "--combine-payload", o->combine_payload);
    argv_add_text(&a, "--combine", o->combine);
    argv_add_text(&a, "--microbatches", o->microbatches);
    argv_add_text(&a, "--dispatch", o->dispatch);
    argv_add_text(&a, "--placement", o->placement);
    argv_add_number(&a, "--max-batch", o->max_batch);
    argv_add_number(&a, "--max-context", o->max_context);
    argv_add_number(&a, "--step-tokens", o->step_tokens);
    argv_add_number(&a, "--kv-tokens", o->kv_tokens);
    argv_add_number(&a, "--memory", o->memory);
    argv_add_number(&a, "--start-timeout", o->startup);
    argv_add_text(&a, "--lease", o->lease);
    argv_add_text(&a, "--journal", o->journal);
    argv_add_text(&a, "--journal-sync", o->journal_sync);
    argv_add_text(&a, "--attach", o->attach);
    if (o->journal_repair) argv_add(&a, "--journal-repair");
    argv_add_text(&a, "--log-level", o->log_level);
    return child_start(h->child, a.words, SIGKILL, endpoint_fd, why);
}

int head_open(struct head *h, struct child *child, const struct head_options *o, struct why *why) {
    int ends[2];
    *h = (struct head){.child = child, .fd = -1};
    if (pipe2(ends, O_CLOEXEC) < 0) return fail(why, ERR_IO, "cannot make a pipe: %s", strerror(errno));
    h->fd = ends[0];
    fcntl(h->fd, F_SETFL, O_NONBLOCK);
    int rc = start(h, o, ends[1], why);
    close(ends[1]);
    return rc;
}

void head_close(struct head *h) {
    if (h->fd >= 0) close(h->fd);
    h->fd = -1;
}

bool head_told(struct head *h) {
    size_t have = strlen(h->told);
    ssize_t n = h->fd >= 0 ? read(h->fd, h->told + have, sizeof h->told - 1 - have) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) head_close(h);
    if (n <= 0) return false;
    have += (size_t)n;
    h->told[have] = 0;
    if (h->told[have - 1] != '\n' || sscanf(h->told, "listen %255s control %255s", h->listen, h->control) != 2) return false;
    head_close(h);
    return true;
}
