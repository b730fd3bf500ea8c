/* trace.c - `cadre trace`: writes to a file where a running cluster sends its tokens (docs/TRACE.md). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "cli/cli.h"
#include "proto/trace.h"

enum { SLICE_MS = 200, MAX_LAYER = 100000 };

struct options {
    char *connect, *key, *out, *layers;
    int64_t tokens, seconds, max_bytes;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Options"},
    {"connect", CONF_STRING, AT(connect), .def = CADRE_DEFAULT_ENDPOINT, .arg = "ENDPOINT",
     .help = "where the cluster listens"},
    {"key", CONF_STRING, AT(key), .arg = "FILE", .help = "the key of a cluster that has one"},
    {"out", CONF_STRING, AT(out), .arg = "FILE", .help = "the file to write; replaced if it is there"},
    {"layers", CONF_STRING, AT(layers), .arg = "LIST",
     .help = "only these, as the model numbers them: 3,10-12; default: all with experts"},
    {"", CONF_FLAG, 0, .help = "Until Ctrl-C, or"},
    {"tokens", CONF_INT, AT(tokens), .min = 1, .max = 1e15, .arg = "N", .help = "until so many tokens are recorded"},
    {"seconds", CONF_INT, AT(seconds), .min = 1, .max = 1e9, .arg = "N", .help = "for so long"},
    {"max-bytes", CONF_SIZE, AT(max_bytes), .def = "1GiB", .min = 1, .max = 1e15, .arg = "BYTES",
     .help = "until the file would grow beyond this"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre trace",
    .usage = "--out FILE [options]",
    .about =
        "Records, for every token that a running cluster computes and every layer: the chosen experts and their weights, and "
        "how\n"
        "certain the gate was. The cluster does not wait for this: what cannot be kept up with is dropped, counted and shown.",
    .options = table,
    .footer = "Examples:\n  cadre trace --out routing.trace --tokens 100000\n  cadre experts --report routing.trace\n\n"
              "Exit status: 0 recorded, 1 failed, 2 wrong usage."};

struct recording {
    const struct options *o;
    FILE *file;
    struct trace_shape shape;
    uint64_t bytes, rows, lost;
    bool full;
};

static int write_failed(const struct recording *r) {
    fprintf(stderr, "cadre trace: cannot write %s: %s\n", r->o->out, strerror(errno));
    return EXIT_FAILED;
}

static bool put(struct recording *r, const void *bytes, size_t len) {
    r->bytes += len;
    return fwrite(bytes, 1, len, r->file) == len;
}

/* As many rows of the chunk as the bounds leave. */
static bool put_rows(struct recording *r, const struct trace_chunk *c) {
    uint8_t head[TRACE_CHUNK_HEAD + TRACE_ROWS_HEAD];
    size_t each = trace_row_bytes(&r->shape);
    uint64_t room =
        (uint64_t)r->o->max_bytes > r->bytes + sizeof head ? ((uint64_t)r->o->max_bytes - r->bytes - sizeof head) / each : 0;
    if (r->o->tokens && (uint64_t)r->o->tokens - r->rows < room) room = (uint64_t)r->o->tokens - r->rows;
    uint32_t n = room < c->n ? (uint32_t)room : c->n;
    r->full = n < c->n || (r->o->tokens && r->rows + n == (uint64_t)r->o->tokens);
    r->rows += n;
    if (!n) return true;
    trace_put_chunk(head, TRACE_ROWS, TRACE_ROWS_HEAD + n * each);
    trace_put_rows(head + TRACE_CHUNK_HEAD, c->worker, n, c->step);
    return put(r, head, sizeof head) && put(r, c->rows, n * each) && !fflush(r->file);
}

static int take(struct recording *r, const uint8_t *chunk, size_t len) {
    struct trace_chunk c;
    struct why why;
    bool first = !r->shape.layers;
    if (trace_parse(chunk, len, &r->shape, &c, &why) < 0 || first != (c.kind == TRACE_HEAD))
        return fprintf(stderr, "cadre trace: the cluster sent what is no trace: %s\n", first ? "no head" : why.text),
               EXIT_FAILED;
    if (c.kind == TRACE_LOST) r->lost += c.lost;
    bool ok = c.kind == TRACE_ROWS ? put_rows(r, &c) : put(r, chunk, len) && !fflush(r->file);
    if (!ok) return write_failed(r);
    if (first) fprintf(stderr, "cadre trace: recording %d layers of %s to %s\n", r->shape.layers, r->shape.model, r->o->out);
    return EXIT_DONE;
}

static int record(struct recording *r, struct cadre_client *client, struct cadre_stream *stream) {
    int64_t until_us = r->o->seconds ? clk_now_us() + r->o->seconds * 1000000 : INT64_MAX;
    int status = EXIT_DONE;
    while (status == EXIT_DONE && !r->full && !cli_signals() && clk_now_us() < until_us) {
        const void *chunk;
        size_t len;
        int code = cadre_trace_next(stream, SLICE_MS, &chunk, &len);
        if (code == CADRE_TIMEOUT) continue;
        if (!chunk) return code ? cli_complain("trace", code, cadre_error(client)) : EXIT_DONE;
        status = take(r, chunk, len);
    }
    return status;
}

static int finish(struct recording *r, int status) {
    uint8_t end[TRACE_CHUNK_HEAD + 16];
    if (!r->shape.layers) return status; /* nothing was recorded, and something was said about it */
    if (!put(r, end, trace_make_end(end, sizeof end, r->rows, r->lost))) return write_failed(r);
    if (fflush(r->file)) return write_failed(r);
    fprintf(stderr, "cadre trace: %llu tokens in %d layers, %s in %s", (unsigned long long)r->rows, r->shape.layers,
            cli_bytes((double)r->bytes), r->o->out);
    if (r->lost) fprintf(stderr, "; %llu tokens were lost", (unsigned long long)r->lost);
    fprintf(stderr, "\n");
    return status;
}

/* "3,10-12" -> numbers; the count, or -1. */
static int read_layers(const char *text, uint32_t *out, int cap) {
    int n = 0;
    for (const char *p = text; *p;) {
        char *end;
        unsigned long from = strtoul(p, &end, 10), to = from;
        if (end == p || *p == '-' || *p == '+') return -1;
        if (*end == '-') {
            p = end + 1;
            to = strtoul(p, &end, 10);
            if (end == p || *p == '-' || *p == '+') return -1;
        }
        if (to < from || to > MAX_LAYER || (*end && *end != ',') || (*end == ',' && !end[1])) return -1;
        for (unsigned long l = from; l <= to && n < cap; l++) out[n++] = (uint32_t)l;
        p = *end ? end + 1 : end;
    }
    return n ? n : -1;
}

static int run(const struct options *o) {
    uint32_t layers[TRACE_MAX_LAYERS];
    int n = o->layers ? read_layers(o->layers, layers, TRACE_MAX_LAYERS) : 0;
    if (!o->out) return fprintf(stderr, "cadre trace: wanted --out FILE\n"), EXIT_USAGE;
    if (n < 0) return fprintf(stderr, "cadre trace: --layers '%s': wanted numbers such as 3,10-12\n", o->layers), EXIT_USAGE;
    struct recording r = {.o = o};
    struct cadre_stream *stream;
    struct cadre_client *client = cli_connect("trace", o->connect, o->key, true);
    if (!client) return EXIT_FAILED;
    cli_catch_signals();
    int status, code = cadre_trace(client, layers, (size_t)n, &stream);
    if (code) {
        status = cli_complain("trace", code, cadre_error(client));
    } else if (!(r.file = fopen(o->out, "wbe")) || !put(&r, TRACE_MAGIC, TRACE_MAGIC_BYTES)) {
        status = write_failed(&r);
    } else {
        status = record(&r, client, stream);
        cadre_cancel(stream);
        status = finish(&r, status);
    }
    if (r.file && fclose(r.file) && status == EXIT_DONE) status = write_failed(&r);
    cadre_stream_close(stream);
    cadre_close(client);
    return status;
}

int trace_main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o);
    conf_clear(&command, &o, &args);
    return status;
}
