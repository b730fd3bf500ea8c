/* journal_record.h - what a journal is made of: records of what must outlive this process (docs/JOURNAL.md). Pure.
 *
 * Encoding appends to a struct journal_bytes; what is there is not sealed yet: a record's checksum depends on where in which
 * segment it comes to stand, so that nothing that stood elsewhere is ever taken for it (journal_segment.h does that).
 * Decoding trusts nothing: every count is held against the bytes that are there. All numbers are little-endian. */
#pragma once
#include "base/arena.h"
#include "base/status.h"
#include "coordinator/msg.h"

enum journal_kind {
    JOURNAL_START = 1, /* what a restarted coordinator must not use again, and the model. First in every segment */
    JOURNAL_CLASS,     /* the numeric class that the tokens from here on belong to */
    JOURNAL_ACCEPT,    /* a request, with all that its tokens depend on */
    JOURNAL_TOKENS,    /* a step's: one of each of several requests */
    JOURNAL_FINISH,    /* no token follows */
    JOURNAL_FORGET,    /* nobody will ask for it again */
    JOURNAL_SYNCED,    /* how far this segment is on the disk: what is damaged before that was not being written */
    JOURNAL_KINDS
};
enum {
    JOURNAL_ID_BYTES = 16,
    JOURNAL_HEAD_BYTES = 16,        /* of a record: length of the payload, kind, checksum */
    JOURNAL_RECORD_BYTES = 1 << 28, /* largest payload */
    JOURNAL_TEXT_BYTES = 1 << 16,   /* largest text in one */
    JOURNAL_TEXTS = 64              /* stop strings */
};

struct journal_counters { /* the last ones used */
    uint32_t epoch, placement_version, incarnation;
    uint64_t request;
};
struct journal_start {
    struct journal_counters counters;
    int64_t at_us; /* unix time */
    struct text_slice model;
};
struct journal_accept {
    uint8_t id[JOURNAL_ID_BYTES]; /* the call's: whoever knows it may ask for the answer */
    uint64_t number;
    int64_t at_us, deadline_us; /* unix time; deadline 0: none */
    struct sampling sampling;
    int32_t priority;
    uint32_t max_tokens; /* as admitted: the length ends it there */
    bool allow_degraded;
    const int32_t *ids, *stop_ids;
    size_t n_ids, n_stop_ids;
    const struct text_slice *stops;
    size_t n_stops;
    struct text_slice tag, tenant;
};
struct journal_token {
    uint64_t number; /* of its request */
    uint32_t index;  /* in the answer */
    int32_t id;
    float logprob; /* its bits are kept */
    uint32_t n_top;
    const struct top_token *top;
};
struct journal_tokens {
    uint64_t step;
    const struct journal_token *token;
    size_t n;
};
struct journal_finish {
    uint64_t number;
    uint32_t status; /* of the call */
    uint32_t tokens; /* in the answer: with fewer in the journal it is not finished there, and is computed again */
    uint32_t preemptions;
    bool stop, degraded; /* stop: reason "stop", else "length" */
    uint64_t queue_us, prefill_us, decode_us;
    struct text_slice message;
};
struct journal_record {
    enum journal_kind kind;
    union {
        struct journal_start start;
        struct text_slice numeric_class;
        struct journal_accept accept;
        struct journal_tokens tokens;
        struct journal_finish finish;
        uint64_t forget; /* number */
        uint64_t synced; /* bytes from the segment's beginning */
    };
};

struct journal_bytes { /* zero it; free with journal_bytes_clear */
    uint8_t *data;
    size_t len, cap;
    size_t record; /* where the record in hand begins */
};
void journal_bytes_clear(struct journal_bytes *b);

/* One whole record, or ERR_NOMEM or ERR_TOO_LARGE with b as it was. */
int journal_put(struct journal_bytes *b, const struct journal_record *r);
/* The same for a step's tokens, one by one: begin, add*, end. Nothing else may be put between; an error undoes the record. */
int journal_put_tokens(struct journal_bytes *b, uint64_t step);
int journal_put_token(struct journal_bytes *b, const struct journal_token *t);
int journal_put_end(struct journal_bytes *b);

/* ERR_CORRUPT with why, ERR_NOMEM. Texts point into payload; arrays are in arena. */
int journal_decode(uint32_t kind, const uint8_t *payload, size_t len, struct arena *arena, struct journal_record *out,
                   struct why *why);
const char *journal_kind_name(uint32_t kind);

/* A record's head. */
struct journal_head {
    uint32_t len, kind;
    uint64_t sum;
};
struct journal_head journal_get_head(const uint8_t *at);
void journal_put_sum(uint8_t *at, uint64_t sum);
