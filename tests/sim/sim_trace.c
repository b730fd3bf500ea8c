/* sim_trace.c - what homes record of routing is what the experts ran: for every checkpoint with experts, the trace's counts per
 * layer and expert are those of the workers that executed the rows, nothing is lost, and the counts per domain are those of
 * the records with that domain. A cluster that is being recorded gives the same answers.
 *
 * usage: sim_trace DATA_DIR */
#include "tests/golden/names.h"
#include "tests/sim/cluster.h"

#include "base/clk.h"
#include "model/checkpoint.h"
#include "proto/trace.h"

#include <stdarg.h>
#include <string.h>

enum { REQUESTS = 6, PROMPT = 24, PATIENCE_US = 60000000 };

static int passed, failed;
__attribute__((format(printf, 2, 3))) static void report(bool ok, const char *fmt, ...) {
    char text[500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("%s %d - %s\n", ok ? "ok" : "not ok", passed + failed + 1, text);
    fflush(stdout);
    *(ok ? &passed : &failed) += 1;
}

static int32_t prompts[REQUESTS][PROMPT];
static const char *const tags[REQUESTS] = {"code", NULL, "fine art", "code", NULL, "fine art"};

static void make_requests(struct cadre_request *r) {
    for (int i = 0; i < REQUESTS; i++) {
        for (int t = 0; t < PROMPT; t++) prompts[i][t] = (i * 37 + t * 11 + 3) % 90;
        r[i] = (struct cadre_request){.ids = prompts[i],
                                      .n_ids = (size_t)(PROMPT - 3 * i),
                                      .max_tokens = (uint32_t)(4 + i),
                                      .has_max_tokens = 1,
                                      .ignore_eos = 1,
                                      .tag = tags[i]};
    }
}

struct counts {
    struct trace_shape shape;
    uint64_t tokens, lost;
    uint64_t *rows;                /* [layers, E] */
    uint64_t *domain_rows;         /* [TRACE_DOMAINS, layers, E] */
    char name[TRACE_DOMAINS][TRACE_NAME_BYTES + 1];
    int unsound; /* records with weights or certainty that cannot be */
};

static void count_cell(struct counts *n, const struct trace_row *row, int layer, const struct trace_cell *c) {
    int E = n->shape.experts;
    n->unsound += !(c->confidence >= -1e-3f && c->confidence <= 1.001f && c->entropy >= -1e-3f);
    for (int j = 0; j < n->shape.topk; j++) {
        if (c->expert[j] >= E) continue;
        n->rows[layer * E + c->expert[j]]++;
        n->domain_rows[(row->domain * n->shape.layers + layer) * E + c->expert[j]]++;
    }
}

static void count_chunk(struct counts *n, const void *bytes, size_t len) {
    struct trace_chunk c;
    struct why why;
    bool first = !n->shape.layers;
    if (trace_parse(bytes, len, &n->shape, &c, &why) < 0) die("a chunk cannot be read: %s", why.text);
    if (first) {
        size_t cells = (size_t)n->shape.layers * (size_t)n->shape.experts;
        n->rows = calloc(cells, sizeof *n->rows);
        n->domain_rows = calloc(TRACE_DOMAINS * cells, sizeof *n->domain_rows);
        if (c.kind != TRACE_HEAD || !n->rows || !n->domain_rows) die("no head");
    }
    if (c.kind == TRACE_NAME) memcpy(n->name[c.domain], c.name, sizeof c.name);
    if (c.kind == TRACE_LOST) n->lost += c.lost;
    for (uint32_t t = 0; c.kind == TRACE_ROWS && t < c.n; t++) {
        struct trace_row row;
        struct trace_cell cell;
        const uint8_t *at = c.rows + t * trace_row_bytes(&n->shape);
        trace_get_row(at, &row);
        n->tokens++;
        for (int l = 0; l < n->shape.layers; l++) {
            trace_get_cell(at, n->shape.topk, l, &cell);
            count_cell(n, &row, l, &cell);
        }
    }
}

static void read_until(struct counts *n, struct cadre_stream *s, uint64_t tokens) {
    for (int64_t until = clk_now_us() + PATIENCE_US; clk_now_us() < until && n->tokens < tokens;) {
        const void *chunk;
        size_t len;
        int code = cadre_trace_next(s, 1000, &chunk, &len);
        if (code == CADRE_TIMEOUT) continue;
        if (!chunk) return;
        count_chunk(n, chunk, len);
    }
}

/* The tagged counts come with beats. */
static bool domains_agree(struct cadre_client *client, const struct counts *n) {
    for (int64_t until = clk_now_us() + PATIENCE_US; clk_now_us() < until;) {
        struct cadre_load *load;
        size_t cells = (size_t)n->shape.layers * (size_t)n->shape.experts, same = 0;
        if (cadre_experts(client, 5000, &load)) return false;
        for (size_t d = 0; d < load->n_domains; d++)
            for (int i = 1; i < TRACE_DOMAINS; i++)
                same += !strcmp(load->domains[d].name, n->name[i]) &&
                        !memcmp(load->domains[d].rows, n->domain_rows + (size_t)i * cells, cells * sizeof *n->domain_rows);
        bool all = load->n_domains == 2 && same == 2;
        cadre_load_free(load);
        if (all) return true;
    }
    return false;
}

static void record(const char *name, const struct cluster_options *o, const struct answer *want) {
    static struct answer answers[REQUESTS];
    struct cadre_request r[REQUESTS];
    struct cluster *c;
    struct cadre_client *client;
    struct cadre_stream *stream;
    struct cadre_load *load;
    struct counts n = {0};
    struct why why;
    char where[200] = "";
    const void *chunk;
    size_t len;
    make_requests(r);
    if (cluster_start(o, &c, &why) < 0) die("%s", why.text);
    if (cadre_open(cluster_endpoint(c), NULL, &client) || cadre_trace(client, NULL, 0, &stream) ||
        cadre_trace_next(stream, 20000, &chunk, &len) || !chunk)
        die("%s: %s", name, cadre_error(client));
    count_chunk(&n, chunk, len);
    bool ok = cluster_ask(c, r, REQUESTS, answers, 120);
    for (int i = 0; i < REQUESTS && ok; i++) ok = answer_equal(&answers[i], &want[i], where, sizeof where);
    report(ok, "%s: recorded answers are the same %s", name, where);
    if (cadre_experts(client, 5000, &load)) die("%s", cadre_error(client));
    read_until(&n, stream, load->tokens);
    bool same = n.tokens == load->tokens && n.shape.experts == (int)load->experts && n.shape.layers == (int)load->layers &&
                !memcmp(n.rows, load->rows, sizeof *n.rows * load->layers * load->experts);
    report(same && !n.lost, "%s: %llu tokens recorded, %llu run, %llu lost; counts per expert agree", name,
           (unsigned long long)n.tokens, (unsigned long long)load->tokens, (unsigned long long)n.lost);
    report(!n.unsound, "%s: every certainty is one (%d are not)", name, n.unsound);
    cadre_load_free(load);
    report(domains_agree(client, &n), "%s: counts per domain agree with the records", name);
    cadre_stream_close(stream);
    cadre_close(client);
    free(n.rows);
    free(n.domain_rows);
    report(cluster_stop(c) == 0, "%s: ends in order", name);
}

static void test_checkpoint(const char *name, const char *dir) {
    static struct answer plain[REQUESTS];
    struct checkpoint checkpoint;
    struct cadre_request r[REQUESTS];
    struct cluster *c;
    struct why why;
    if (checkpoint_open(dir, &checkpoint, &why) < 0) die("%s", why.text);
    bool moe = checkpoint.config.moe_layers > 0;
    checkpoint_close(&checkpoint);
    if (!moe) return;
    struct cluster_options o = {.coordinator = {.model_dir = dir,
                                                .workers = 3,
                                                .weights = "f32",
                                                .max_batch = 6,
                                                .max_context = 64,
                                                .prefill_chunk = 7,
                                                .ids_only = true}};
    make_requests(r);
    for (int i = 0; i < REQUESTS; i++) r[i].tag = NULL;
    if (cluster_start(&o, &c, &why) < 0) die("%s", why.text);
    if (!cluster_ask(c, r, REQUESTS, plain, 120)) die("%s: no answers", name);
    if (cluster_stop(c)) die("%s: did not end in order", name);
    record(name, &o, plain);
}

int main(int argc, char **argv) {
    static struct names all;
    if (argc != 2) die("usage: sim_trace DATA_DIR");
    names_read(argv[1], &all);
    for (int i = 0; i < all.count; i++) {
        char dir[1024];
        snprintf(dir, sizeof dir, "%s/%s", argv[1], all.name[i]);
        test_checkpoint(all.name[i], dir);
    }
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0;
}
