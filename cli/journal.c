/* journal.c - `cadre journal`: what a coordinator's journal says, record by record (docs/JOURNAL.md). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "coordinator/journal_segment.h"

enum { SHOWN_TOKENS = 8 };

struct options {
    bool quiet, repair;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Options"},
    {"quiet", CONF_FLAG, AT(quiet), .letter = 'q', .help = "only check it and sum it up"},
    {"journal-repair", CONF_FLAG, AT(repair), .help = "read on behind damaged bytes, as a coordinator with this option would"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre journal",
    .usage = "DIR [options]",
    .about =
        "Prints the journal that a coordinator keeps in DIR (cadre-coordinator --journal DIR), one record a line, and "
        "verifies\n"
        "all checksums. The coordinator may be running. Nothing is changed. Prompts are not shown, only how long they are.",
    .options = table,
    .footer = "Exit status: 0 sound (a torn end is normal after a crash), 1 damaged or unreadable, 2 wrong usage.",
    .min_args = 1,
    .max_args = 1};

struct reading {
    const struct options *o;
    struct journal_state state;
};

static const char *when(int64_t unix_us, char buf[32]) {
    time_t t = (time_t)(unix_us / 1000000);
    struct tm tm;
    if (!localtime_r(&t, &tm) || !strftime(buf, 32, "%Y-%m-%d %H:%M:%S", &tm)) snprintf(buf, 32, "%" PRId64, unix_us);
    return buf;
}

static void print_text(const char *name, struct text_slice t) {
    if (!t.len) return;
    printf(", %s ", name);
    cli_json_string(stdout, t.data, t.len);
}

static void print_accept(const struct journal_accept *a) {
    char at[32];
    printf("request %" PRIu64 ", id ", a->number);
    for (int i = 0; i < JOURNAL_ID_BYTES; i++) printf("%02x", a->id[i]);
    printf(", %s: %zu tokens, %u at most to follow, seed %" PRIu64 ", temperature %g", when(a->at_us, at), a->n_ids,
           a->max_tokens, a->sampling.seed, (double)a->sampling.temperature);
    if (a->sampling.logprobs) printf(", logprobs %u", a->sampling.logprobs - 1);
    if (a->priority) printf(", priority %d", a->priority);
    if (a->deadline_us) printf(", until %s", when(a->deadline_us, at));
    if (a->n_stops || a->n_stop_ids) printf(", %zu stop strings, %zu stop ids", a->n_stops, a->n_stop_ids);
    print_text("tag", a->tag);
    print_text("tenant", a->tenant);
}

static void print_tokens(const struct journal_tokens *t) {
    printf("step %" PRIu64 ":", t->step);
    for (size_t i = 0; i < t->n && i < SHOWN_TOKENS; i++)
        printf(" %" PRIu64 "[%u]=%d", t->token[i].number, t->token[i].index, t->token[i].id);
    if (t->n > SHOWN_TOKENS) printf(" and %zu more", t->n - SHOWN_TOKENS);
}

static void print_finish(const struct journal_finish *f) {
    printf("request %" PRIu64 ", %u tokens, ", f->number, f->tokens);
    if (f->status) printf("%s", cadre_code_name((int)f->status));
    else printf("%s%s", f->stop ? "stop" : "length", f->degraded ? ", degraded" : "");
    print_text("message", f->message);
}

static void print_start(const struct journal_start *s) {
    char at[32];
    printf("%s: epoch %u, placement version %u, incarnation %u, request %" PRIu64, when(s->at_us, at), s->counters.epoch,
           s->counters.placement_version, s->counters.incarnation, s->counters.request);
    print_text("model", s->model);
}

static int print_record(void *ctx, uint64_t offset, const struct journal_record *r, struct why *why) {
    struct reading *reading = ctx;
    int rc = journal_state_apply(&reading->state, r, why);
    if (rc < 0 || reading->o->quiet) return rc;
    printf("%10" PRIu64 "  %-6s  ", offset, journal_kind_name(r->kind));
    switch (r->kind) {
    case JOURNAL_START: print_start(&r->start); break;
    case JOURNAL_CLASS: printf("%.*s", (int)r->numeric_class.len, r->numeric_class.data); break;
    case JOURNAL_ACCEPT: print_accept(&r->accept); break;
    case JOURNAL_TOKENS: print_tokens(&r->tokens); break;
    case JOURNAL_FINISH: print_finish(&r->finish); break;
    case JOURNAL_FORGET: printf("request %" PRIu64, r->forget); break;
    default: printf("%" PRIu64 " bytes", r->synced); break;
    }
    printf("\n");
    return 0;
}

static void print_sum(const struct journal_scan *s, const struct journal_state *state) {
    char at[32];
    size_t finished = 0;
    struct list *i, *next;
    list_for(i, next, &state->requests) finished += list_entry(i, struct journal_request, node)->finished;
    printf("segment %" PRIu64 ", made %s, model %s (%016" PRIx64 "): %" PRIu64
           " records, %s; %zu requests, %zu of them finished\n",
           s->header.segment, when(s->header.created_us, at), state->model, s->header.fingerprint, s->records,
           cli_bytes((double)s->bytes), state->n_requests, finished);
    if (s->cut_bytes) printf("torn: %" PRIu64 " bytes from offset %" PRIu64 " are no whole record\n", s->cut_bytes, s->cut_at);
    if (s->damages)
        printf("damaged: %" PRIu64 " bytes in %" PRIu64 " places, the first at offset %" PRIu64 "\n", s->damaged_bytes,
               s->damages, s->damaged_at);
}

static int run(const struct options *o, const char *dir) {
    struct reading r = {.o = o};
    struct journal_visitor v = {print_record, &r};
    struct journal_scan scan;
    struct why why;
    if (journal_state_init(&r.state) < 0) return fprintf(stderr, "cadre journal: out of memory\n"), EXIT_FAILED;
    int rc = journal_read(dir, o->repair, &v, &scan, &why);
    if (rc >= 0) print_sum(&scan, &r.state);
    else fprintf(stderr, "cadre journal: %s\n", why.text);
    journal_state_clear(&r.state);
    return rc < 0 || scan.damages ? EXIT_FAILED : EXIT_DONE;
}

int journal_main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o, args.items[0]);
    conf_clear(&command, &o, &args);
    return status;
}
