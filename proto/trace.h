/* trace.h - the format of routing traces: which experts each token was sent to, layer by layer. See docs/TRACE.md.
 *
 * A file is a magic and then chunks; what homes record, what the coordinator passes on and what `cadre trace` writes are the
 * same chunks, so nothing is translated on the way. Numbers are little endian. A reader trusts nothing in the file.
 * Owner: one thread per writer or reader. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

#define TRACE_MAGIC "CDTRACE\n"
enum {
    TRACE_VERSION = 1,
    TRACE_MAGIC_BYTES = 8,
    TRACE_CHUNK_HEAD = 8,         /* kind, bytes of what follows */
    TRACE_CHUNK_LIMIT = 16 << 20, /* bytes of a chunk */
    TRACE_ROWS_HEAD = 16,         /* of a TRACE_ROWS payload: worker, rows, step */
    TRACE_MAX_LAYERS = 512,
    TRACE_MAX_LAYER = 65535, /* the largest number of one */
    TRACE_MAX_EXPERTS = 65535,
    TRACE_MAX_TOPK = 256,
    TRACE_MAX_CELLS = 1 << 20, /* layers * experts */
    TRACE_NAME_BYTES = 64,
    TRACE_DOMAINS = 16, /* 0: untagged; 1 ..: tags in order of their first request, the last one for all further tags */
    TRACE_NO_EXPERT = 0xffff
};
enum trace_kind { TRACE_HEAD = 1, TRACE_NAME = 2, TRACE_ROWS = 3, TRACE_LOST = 4, TRACE_END = 5 };

struct trace_shape {                       /* what a HEAD says */
    int experts, zero;                     /* E; experts without weights, numbered from E (identity) */
    int topk, layers;                      /* k; layers recorded, in this order in every row */
    int32_t model_layer[TRACE_MAX_LAYERS]; /* their numbers in the model */
    char model[128];
};
struct trace_row { /* one token */
    uint64_t seq;
    int32_t token;
    uint32_t position;
    uint16_t domain;
    uint16_t broken; /* numbers of its cells that were not finite and are written as 0; 65535: or more */
};
struct trace_cell {            /* one token in one layer */
    float entropy, confidence; /* nats; 0..1, 1 is certain */
    float weight[TRACE_MAX_TOPK];
    uint16_t expert[TRACE_MAX_TOPK]; /* in the order in which they are added; TRACE_NO_EXPERT: none */
};

int trace_shape_check(const struct trace_shape *s, struct why *why);
size_t trace_cell_bytes(int topk);
size_t trace_row_bytes(const struct trace_shape *s);

/* Writers: into memory the caller has sized. */
void trace_put_chunk(uint8_t *at, enum trace_kind kind, size_t payload_bytes);   /* TRACE_CHUNK_HEAD bytes */
void trace_put_rows(uint8_t *at, uint32_t worker, uint32_t rows, uint64_t step); /* TRACE_ROWS_HEAD bytes */
void trace_put_row(uint8_t *at, const struct trace_row *r);                      /* the row's own part; cells follow */
void trace_put_cell(uint8_t *row, int topk, int column, float entropy, float confidence, const float *weight,
                    const int32_t *expert); /* expert < 0: none. What is not finite becomes 0 and is counted in the row */
/* Whole chunks, with their head. Return the bytes written; 0: cap is too small. */
size_t trace_make_head(uint8_t *at, size_t cap, const struct trace_shape *s);
size_t trace_make_name(uint8_t *at, size_t cap, uint32_t domain, const char *name);
size_t trace_make_lost(uint8_t *at, size_t cap, uint64_t rows);
size_t trace_make_end(uint8_t *at, size_t cap, uint64_t rows, uint64_t lost);

/* Readers. */
struct trace_chunk {
    enum trace_kind kind;
    const uint8_t *rows; /* ROWS: n rows of trace_row_bytes each */
    uint32_t worker, n;
    uint64_t step, lost, total; /* LOST: rows lost since the last; END: all that are in the file, and all lost */
    uint32_t domain;            /* NAME */
    char name[TRACE_NAME_BYTES + 1];
};
/* One chunk of `len` bytes, head included. shape: filled by a HEAD, needed by ROWS. ERR_CORRUPT says what was wrong. */
int trace_parse(const uint8_t *chunk, size_t len, struct trace_shape *shape, struct trace_chunk *out, struct why *why);
/* Of a ROWS chunk only who, when and how many: for whoever passes it on. */
int trace_parse_rows(const uint8_t *chunk, size_t len, const struct trace_shape *shape, struct trace_chunk *out,
                     struct why *why);
void trace_get_row(const uint8_t *at, struct trace_row *out);
void trace_get_cell(const uint8_t *row, int topk, int column, struct trace_cell *out);

struct trace_reader {
    FILE *file; /* borrowed */
    struct trace_shape shape;
    uint8_t *buf;
    size_t cap;
    bool ended; /* an END was read: the file is whole */
};
/* Reads magic and HEAD. */
int trace_reader_open(struct trace_reader *r, FILE *f, struct why *why);
int trace_reader_next(struct trace_reader *r, struct trace_chunk *out, struct why *why); /* 1; 0 at the end; negative */
void trace_reader_close(struct trace_reader *r);
