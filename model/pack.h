/* pack.h - a model as it is held: DIR/weights.pack, beside the config and tokenizer files of the model it was made of.
 *
 *   file header (one page) | blob | blob ...     each blob at a multiple of 4096 bytes, the gaps zero
 *
 * A blob (blob.h) is what a worker would have in memory: it maps the file and loads nothing, and workers of one host share its
 * pages. First the tensors outside of experts, by layer and role; then per layer the common blobs and the experts. Which there
 * are, their order and sizes follow from config.json and the file header, so there is no index: open walks the headers and
 * compares. Payloads are checked by who uses them (pack_check). docs/PACK.md. Any thread after open. */
#pragma once
#include "model/checkpoint.h"

#define PACK_FILE "weights.pack"
#define PACK_PART_FILE PACK_FILE ".part" /* while it is written */
enum { PACK_VERSION = 1, PACK_PAGE = 4096, PACK_STORED = 6 };
/* The number that a format has in the file, whatever becomes of the enum: those of weights are blob.h's. */
static inline uint32_t pack_number(enum fmt f) { return f == FMT_STORED ? PACK_STORED : (uint32_t)f; }

struct pack_header { /* little endian; 64 bytes, the rest of the page is zero */
    char magic[8];   /* "CADREPAK" */
    uint32_t version, weights; /* pack_number: what was asked for */
    uint32_t stored, roles;    /* config.stored; T_ROLE_COUNT: a release that counts roles differently cannot read it */
    uint64_t source;           /* fingerprint of what it was made of */
    uint64_t bytes, blobs;     /* of the whole file */
    uint64_t wish;             /* of struct pack_wish beyond the format; 0: nothing */
    uint64_t checksum; /* XXH3-64 of what is above */
};

struct pack;
/* ERR_NOT_FOUND: no pack there. Sets c->stored. Every header has been compared; a wrong or missing one is named. */
int pack_open(const char *dir, struct model_config *c, struct pack **out, struct why *why);
/* The same of bytes in memory, borrowed and page-aligned: fuzzing. */
int pack_open_memory(const void *bytes, size_t n, struct model_config *c, struct pack **out, struct why *why);
void pack_close(struct pack *p);
/* A pack, whole or not, is there. */
bool pack_exists(const char *dir);
/* A pack was begun here and has not been finished. */
bool pack_unfinished(const char *dir);
const struct pack_header *pack_header(const struct pack *p);
enum fmt pack_weights(const struct pack *p); /* what was asked for */
/* layer of the model; `expert` as in the blob's header. NULL: there is none such. */
const struct blob_header *pack_blob(const struct pack *p, enum blob_kind kind, int layer, int expert);
/* What tells this pack from others: its headers, checksums included. */
void pack_identify(const struct pack *p, void (*add)(void *ctx, const void *bytes, size_t n), void *ctx);
/* ERR_CORRUPT naming file, blob and where it is. */
int pack_check(const struct pack *p, const struct blob_header *blob, struct why *why);
/* Of all; says how far it is to `progress` (bytes checked), which may be NULL. */
int pack_check_all(const struct pack *p, void (*progress)(void *ctx, uint64_t done, uint64_t all), void *ctx, struct why *why);

/* ---- what both ends walk ---- */
struct pack_entry {
    enum blob_kind kind;
    int layer, expert;
};
/* Calls with every blob of a model, in the file's order, until fn says something below 0, which it returns. */
int pack_walk(const struct model_config *c, int (*fn)(void *ctx, const struct pack_entry *e), void *ctx);

/* ---- writing: pack_write.c ---- */
struct pack_wish {
    enum fmt weights;
    bool output_too; /* q4 holds the output's matrix as well, which is q8 otherwise */
    const struct rounding *rounding; /* NULL, or for q8 and q4 */
    const struct pruning *pruning;   /* NULL: all stay */
};
struct pack_progress {
    void (*say)(void *ctx, uint64_t done, uint64_t all, uint64_t kept); /* bytes; kept: of an interrupted run */
    void *ctx;
};
/* What pack_write would refuse that can be said before anything is fitted to a text: `from`, which is c's folder, is a pack or
 * is `dir`; `dir` has other files, or a pack of another model or format. */
int pack_may_begin(const struct checkpoint *c, const char *from, const char *dir, enum fmt weights, struct why *why);
/* Makes or finishes `dir` of the model in `from`. What an interrupted run has written whole is kept. ERR_EXISTS: a pack of
 * another model or format is there, or files that would be overwritten: another model's. ERR_INVALID: `dir` is `from`, or
 * `from` is a pack, or its experts cannot be left out. ERR_IO with the system's reason: a full disk, for one. 0: it was made;
 * 1: it was there, whole. */
int pack_write(const char *from, const char *dir, const struct pack_wish *wish, const struct pack_progress *progress,
               struct why *why);
