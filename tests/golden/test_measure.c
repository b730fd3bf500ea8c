/* test_measure.c - what measure_worker says of every checkpoint is what an engine that loads it counts, byte for byte: for
 * several numbers of workers, formats, contexts and step sizes. And the counters are right: pages, experts and resident
 * tensors of the plainest checkpoints are added up here by other means.
 *
 * usage: test_measure DATA_DIR */
#include "tests/golden/names.h"
#include "worker/engine.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_WORKERS = 3 };

static int number, failures;

__attribute__((format(printf, 2, 3))) static void report(bool ok, const char *fmt, ...) {
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("%sok %d - %s\n", ok ? "" : "not ", ++number, text);
    failures += !ok;
}

/* The ranks of one cluster, all there before the first engine looks for the others. */
struct ranks {
    struct fabric_hub *hub;
    struct fabric *fabric[MAX_WORKERS]; /* an engine closes its own */
    struct peer peers[MAX_WORKERS];
    uint8_t address[MAX_WORKERS][FABRIC_ADDRESS_BYTES];
};

static void open_ranks(struct ranks *r, int n) {
    struct why why;
    *r = (struct ranks){0};
    if (n > 1 && fabric_hub_new(n, NULL, &r->hub, &why) < 0) die("%s", why.text);
    for (int i = 0; i < n; i++) {
        r->peers[i] = (struct peer){.incarnation = (uint32_t)i + 1, .address = r->address[i]};
        if (!r->hub) continue;
        if (fabric_mem_open(r->hub, i, &r->fabric[i], &why) < 0) die("%s", why.text);
        r->peers[i].address_bytes = fabric_address(r->fabric[i], r->address[i]);
    }
}

static void close_ranks(struct ranks *r, int from, int n) {
    for (int i = from; i < n; i++) fabric_close(r->fabric[i]);
    fabric_hub_free(r->hub);
}

static struct worker_setup setup_of(const char *dir, const struct measure *m, const struct ranks *r, int rank) {
    struct worker_setup s = {.epoch = 1,
                             .incarnation = (uint32_t)rank + 1,
                             .weights = m->weights,
                             .kv = m->kv,
                             .isa = "ref",
                             .step_tokens = m->step_tokens,
                             .max_seqs = m->max_seqs,
                             .max_context = m->max_context,
                             .page_tokens = m->page_tokens,
                             .kv_pages = m->kv_pages};
    const struct model_config *c = &m->checkpoint->config;
    struct why why;
    snprintf(s.model_dir, sizeof s.model_dir, "%s", dir);
    if (placement_contiguous(&s.placement, m->workers, c->moe_layers, c->gate.experts, &why) < 0) die("%s", why.text);
    if (worker_setup_peers(&s, r->peers, m->workers) < 0) die("out of memory");
    return s;
}

/* What an engine says when it is ready. */
static bool load(const char *dir, const struct measure *m, const struct ranks *r, int rank, struct event *ev) {
    struct engine_options o = {
        .rank = rank, .workers = m->workers, .threads = 1, .fabric_name = "mem", .fabric = r->fabric[rank]};
    struct worker_setup s = setup_of(dir, m, r, rank);
    struct engine *e;
    if (engine_new(&o, &e) < 0 || engine_start(e, &s) < 0) die("no engine");
    while (!engine_event_pop(e, ev)) {
        struct pollfd fd = {.fd = engine_event_fd(e), .events = POLLIN};
        poll(&fd, 1, 1000);
        engine_event_clear(e);
    }
    engine_stop(e);
    engine_join(e);
    engine_free(e);
    return ev->kind == EVENT_READY;
}

static void compare(const char *name, const char *dir, const struct measure *m) {
    static struct ranks ranks; /* large */
    char text[400] = "";
    bool same = true;
    int rank = 0;
    open_ranks(&ranks, m->workers);
    for (; rank < m->workers && same; rank++) {
        struct worker_bytes want = {0};
        struct event ev;
        struct why why = {""};
        bool ready = load(dir, m, &ranks, rank, &ev);
        int rc = measure_worker(m, rank, &want, &why);
        const struct worker_bytes *got = &ev.ready.bytes;
        same = ready && rc >= 0 && !memcmp(got, &want, sizeof want);
        if (!ready || rc < 0) snprintf(text, sizeof text, ": %.300s", ready ? why.text : ev.failed.text);
        else if (!same)
            snprintf(
                text, sizeof text,
                ": worker %d allocates %llu + %llu (%llu mapped) + %llu + %llu + %llu, measured %llu + %llu (%llu) + %llu + "
                "%llu + %llu",
                rank, (unsigned long long)got->experts, (unsigned long long)got->resident, (unsigned long long)got->mapped,
                (unsigned long long)got->kv, (unsigned long long)got->buffers, (unsigned long long)got->exchange,
                (unsigned long long)want.experts, (unsigned long long)want.resident, (unsigned long long)want.mapped,
                (unsigned long long)want.kv, (unsigned long long)want.buffers, (unsigned long long)want.exchange);
    }
    close_ranks(&ranks, rank, m->workers);
    report(same, "%s: %d workers, %s, KV %s, context %d, steps of %d%s", name, m->workers, fmt_name(m->weights),
           fmt_name(m->kv), m->max_context, m->step_tokens, text);
}

static void walk(const char *name, const char *dir, const struct checkpoint *c) {
    static const enum fmt kv[] = {FMT_INT8, FMT_BF16, FMT_F16, FMT_F32};
    for (int workers = 1; workers <= MAX_WORKERS; workers++)
        for (int f = 0; f <= FMT_STORED; f++)
            for (int large = 0; large < 2 && fmt_wish((enum fmt)f) && f != FMT_Q8 /* part of q4 */; large++) {
                struct measure m = {.checkpoint = c,
                                    .weights = (enum fmt)f,
                                    .kv = kv[(workers + f + large) % 4],
                                    .workers = workers,
                                    .step_tokens = large ? 40 : 5,
                                    .max_seqs = large ? 9 : 1,
                                    .max_context = large ? 77 : 33,
                                    .page_tokens = 16,
                                    .kv_pages = large ? 21 : 3};
                compare(name, dir, &m);
            }
}

/* Of a plain model nothing is hidden: sums over the tensors in the files, and the formulae every paper has. */
static void check_plain(const char *name, const struct checkpoint *c) {
    const struct model_config *m = &c->config;
    struct measure one = {.checkpoint = c,
                          .weights = FMT_F32,
                          .workers = 1,
                          .step_tokens = 1,
                          .max_seqs = 1,
                          .max_context = 1,
                          .page_tokens = 16,
                          .kv_pages = 2};
    struct worker_bytes b;
    struct why why;
    uint64_t elements = 0,
             experts = (uint64_t)m->moe_layers * (uint64_t)m->gate.experts * 3 * (uint64_t)m->hidden * (uint64_t)m->expert_ffn;
    for (int i = 0; i < st_count(c->tensors); i++)
        elements += st_at(c->tensors, i)->bytes / (uint64_t)st_dtype_bytes(st_at(c->tensors, i)->dtype);
    uint64_t rope = (uint64_t)m->head_dim * 4, kv = 2ull * 16 * 2 * (uint64_t)(m->kv_heads * m->head_dim * m->layers) * 4;
    if (measure_worker(&one, 0, &b, &why) < 0) die("%s: %s", name, why.text);
    report(b.resident == (elements - experts) * 4 + rope, "%s: %llu resident bytes", name, (unsigned long long)b.resident);
    report(b.kv == kv, "%s: %llu bytes of KV", name, (unsigned long long)b.kv);
    report(b.experts >= experts * 4 && b.experts < experts * 4 + experts / 4 + 4096, "%s: %llu bytes of experts", name,
           (unsigned long long)b.experts);
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* Two numbers to a byte in blocks of mxfp4; scales are no parameters, and eyes are not served. */
static uint64_t numbers_in(const struct st_tensor *t) {
    if (!strncmp(t->name, "multi_modal_projector.", 22) || !strncmp(t->name, "vision_model.", 13)) return 0;
    if (ends_with(t->name, "_scale_inv") || ends_with(t->name, "_scales")) return 0;
    uint64_t n = t->bytes / (uint64_t)st_dtype_bytes(t->dtype);
    return ends_with(t->name, "_blocks") ? 2 * n : n;
}

/* Every number in the files is a parameter. */
static void check_parameters(const char *name, const struct checkpoint *c) {
    struct model_sizes s;
    uint64_t elements = 0;
    model_sizes(&c->config, &s);
    for (int i = 0; i < st_count(c->tensors); i++) elements += numbers_in(st_at(c->tensors, i));
    report(s.params_total == elements && s.params_active <= elements, "%s: %llu parameters, %llu numbers in its files", name,
           (unsigned long long)s.params_total, (unsigned long long)elements);
}

int main(int argc, char **argv) {
    static struct names all;
    if (argc != 2) die("usage: test_measure DATA_DIR");
    names_read(argv[1], &all);
    for (int i = 0; i < all.count; i++) {
        char dir[900];
        struct checkpoint c;
        struct why why;
        snprintf(dir, sizeof dir, "%s/%s", argv[1], all.name[i]);
        if (checkpoint_open(dir, &c, &why) < 0) die("%s", why.text);
        walk(all.name[i], dir, &c);
        check_parameters(all.name[i], &c);
        if (!strcmp(all.name[i], "mixtral") || !strcmp(all.name[i], "llama")) check_plain(all.name[i], &c);
        checkpoint_close(&c);
    }
    printf("1..%d\n", number);
    return failures > 0;
}
