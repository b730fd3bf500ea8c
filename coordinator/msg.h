/* msg.h - what crosses the coordinator's two doors, as plain structs: the ports (client_port, worker_port) turn them into and
 * out of wire messages, everything else here knows only these. Pointers inside a received message are borrowed: valid until
 * the next one is unpacked by the same port. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/health.h"
#include "coordinator/hops.h"
#include "proto/parts.h"

enum {
    MSG_MAX_WORKERS = 64, /* workers are named in 64-bit masks */
    MSG_MAX_TOP = 20,     /* alternatives reported beside a sampled token */
    MSG_HOST_BYTES = 64,
    MSG_WAIT_BUCKETS = 32,    /* of a histogram of waits: 0 under 1 us, b under 2^b us */
    MSG_ADDRESS_BYTES = 4096, /* of a worker's fabric */
    MSG_DOOR_BYTES = 256,     /* of a worker's mover */
    MSG_CLASS_BYTES = 160
};

/* ---- sequences, as workers see them ---- */
struct sampling {
    float temperature, top_p, min_p; /* temperature 0 = greedy; top_p 1 and min_p 0 = off */
    uint32_t top_k;                  /* 0 = off */
    uint64_t seed;
    uint32_t logprobs; /* 0 none; n + 1: the token's own and the n most likely */
};
struct top_token {
    int32_t id;
    float logprob;
};
enum step_finish { STEP_GOES_ON = 0, STEP_STOP_ID = 1, STEP_LENGTH = 2 };
struct step_out { /* one sampled token */
    uint64_t seq;
    uint32_t position; /* of the token in its sequence */
    int32_t token;
    float logprob;
    enum step_finish finish;
    int n_top;
    struct top_token top[MSG_MAX_TOP];
};

/* ---- from workers ---- */
enum worker_msg_kind {
    WORKER_HELLO,
    WORKER_PROGRESS,
    WORKER_IS_READY,
    WORKER_STEP_DONE,
    WORKER_BEAT,
    WORKER_TROUBLE,
    WORKER_REFUSES,
    WORKER_TRACE,
    WORKER_TALLY,
    WORKER_LINKS,
    WORKER_PREPARED,
    WORKER_SEAT
};
struct worker_hello {
    uint32_t protocol, rank, size;
    char host[MSG_HOST_BYTES], host_id[MSG_HOST_BYTES], fabric[16];
    uint64_t pid;
    const uint8_t *address; /* of its fabric */
    size_t address_bytes;
    char door[MSG_DOOR_BYTES]; /* where others fetch blobs from it; "": nowhere */
    uint64_t memory; /* bytes it may use; 0: not said */
    uint32_t held_incarnation, held_epoch; /* of a coordinator that is gone; 0: it is new */
    uint64_t held_step, held_members; /* members: mask of ranks, of that epoch */
    uint64_t held_row_ns;             /* what a row took in its steps; 0: not known */
};
struct held_seq { /* what a worker still has of a sequence: rows of positions 0 .. rows - 1 */
    uint64_t seq;
    int rows, n_pages;
    const uint32_t *pages;
};
struct blob_count { /* what a worker loaded from one kind of place, and how long that took */
    uint64_t blobs, bytes, us, failed;
};
enum { BLOBS_OF_PACK, BLOBS_OF_PEERS, BLOBS_OF_DISK, BLOB_PLACES };
struct worker_ready {
    uint64_t fingerprint;
    char numeric_class[MSG_CLASS_BYTES];
    uint64_t weight_bytes, resident_bytes, kv_bytes, mapped_bytes, buffer_bytes, exchange_bytes;
    uint32_t slots;
    struct hops_link inside, between; /* as it measured them; bytes_per_us 0: not */
    const struct held_seq *held;      /* valid as long as the message */
    int n_held;
    struct blob_count blobs[BLOB_PLACES]; /* since its process began */
};
struct worker_step_done {
    uint32_t epoch;
    uint64_t step, step_us;
    const struct step_out *out;
    int n_out;
    const uint32_t *rows; /* [slots of that worker over all layers] in (layer, slot) order */
    int n_rows;
    const uint64_t *wait_us; /* [workers] */
    int n_wait;
    uint64_t part_us[PARTS]; /* the last is the time before the step */
    uint32_t tokens, trace_lost; /* rows it ran of its own sequences; rows no record was made of */
};
struct link_count { /* one worker's exchange with one peer since it started */
    uint64_t bytes_out, bytes_in, frames_out, frames_in;
    uint64_t frames_extra;                               /* of frames_out: beyond the first of a message */
    uint64_t frames_stale, frames_duplicate, frames_bad; /* of frames_in: dropped */
    uint64_t waits[MSG_WAIT_BUCKETS];                    /* for how many of the peer's messages it waited how long */
};
struct far_count { /* what one worker sent to other hosts since it started */
    uint64_t rows, direct, answers; /* copies of tokens; as many in one hop; rows of answers */
    uint64_t dispatch_bytes, combine_bytes;
};
struct task_count { /* how often a worker's engine let no frame move for a while: n; over: for more than 0.2 ms */
    uint64_t n, over, longest_us;
};
struct worker_msg {
    enum worker_msg_kind kind;
    union {
        struct worker_hello hello; /* SEAT: only protocol, host, pid */
        struct {
            uint64_t done_bytes, total_bytes;
        } progress;
        struct worker_ready ready;
        struct worker_step_done done;
        struct {
            uint64_t progress, strangers, moved; /* moved: of its mover; 0: it has none */
            bool busy;
        } beat;
        struct {
            uint32_t number;
            uint64_t weight_bytes, mapped_bytes;
            struct blob_count blobs[BLOB_PLACES];
        } prepared;
        struct {
            uint64_t step, late_mask;
            uint32_t layer, call;
            char reason[256];
        } trouble; /* also WORKER_REFUSES: reason only */
        struct {
            const uint8_t *chunk;
            size_t len;
        } trace;
        struct {
            uint32_t domain;
            uint64_t tokens;
            const uint64_t *rows;
            size_t n;
        } tally;
        struct {
            const struct link_count *count; /* [n] by rank */
            int n;
            struct far_count far;
            struct task_count tasks;
        } links;
    };
};

/* ---- to workers ---- */
struct worker_peer {
    uint32_t incarnation, host; /* host: index, equal for workers of one host */
    const uint8_t *address;
    size_t address_bytes;
    const char *door; /* "": none, or it has nothing to give */
};
struct worker_placement {
    uint32_t version, workers, layers, experts;
    const uint64_t *hosts; /* [layers * experts] masks */
};
struct worker_welcome {
    uint32_t epoch, incarnation;
    const char *model_dir, *weights, *kv, *isa, *payload, *combine_payload;
    bool naive_prefill, fused;
    uint32_t step_tokens, max_seqs, max_context, page_tokens, kv_pages;
    struct worker_placement placement;
    uint32_t workers;
    const struct worker_peer *peers; /* [workers]; incarnation 0: told of later, with an epoch */
    const uint64_t *held_by;         /* [layers * experts] masks of workers with doors; NULL: nobody has anything */
};

struct worker_epoch {
    uint32_t number, workers;
    struct worker_placement placement;
    const struct worker_peer *peers; /* [workers]; incarnation 0: not in it */
    const uint64_t *held_by;         /* as above */
};

/* ---- from clients ---- */
enum generate_input { INPUT_NONE, INPUT_TEXT, INPUT_IDS, INPUT_CHAT };
struct text_slice {
    const char *data;
    size_t len;
};
struct chat_turn {
    struct text_slice role, content;
};
struct generate_request {
    enum generate_input input;
    struct text_slice prompt;
    const int32_t *ids;
    size_t n_ids;
    const struct chat_turn *turns;
    size_t n_turns;
    struct sampling sampling;
    bool has_seed;
    uint32_t max_tokens;
    bool has_max_tokens;
    const struct text_slice *stop;
    size_t n_stop;
    const int32_t *stop_ids;
    size_t n_stop_ids;
    bool ignore_eos;
    struct text_slice tag, tenant;
    int32_t priority;
    bool allow_degraded, resumable;
};
struct resume_request {
    const uint8_t *call_id; /* [16] */
    bool started;
    uint32_t tokens;
    uint64_t text_bytes;
};
struct tokenize_request {
    enum generate_input input; /* INPUT_TEXT or INPUT_CHAT */
    struct text_slice text;
    const struct chat_turn *turns;
    size_t n_turns;
};

/* ---- to clients ---- */
struct generate_finished {
    const char *reason; /* "stop", "length" */
    uint32_t prompt_tokens, completion_tokens;
    uint64_t queue_us, prefill_us, decode_us;
    uint32_t preemptions;
    bool degraded;
    const char *text; /* what was held back */
    size_t text_len;
};
struct worker_report {
    uint32_t rank;
    const char *host, *state;
    uint64_t pid;
    uint32_t load_percent;
    uint64_t weight_bytes, resident_bytes, kv_bytes, mapped_bytes, buffer_bytes, exchange_bytes;
    uint32_t kv_pages, kv_pages_used, sequences, experts;
    uint64_t rows, beat_age_us, wait_us, busy_us;
    const uint64_t *part_us;        /* [PARTS] */
    const struct blob_count *blobs; /* [BLOB_PLACES] */
    char placement[256];
};
struct journal_report {
    const char *dir, *fault; /* fault: "" when there is none */
    uint64_t records, bytes, syncs, segments, dropped, segment_bytes, requests, lag_us, lag_bytes;
};
struct recovery_report {
    const char *without_one; /* "" when the others could go on */
    uint64_t deaths, detect_us, decide_us, reload_us, first_step_us, recompute_us;
};
struct status_report {
    const char *model, *family, *state, *reason, *numeric_class, *listen, *control, *fabric;
    uint64_t uptime_us, steps, finished, cancelled, expired, failed, preemptions, prompt_tokens, generated_tokens;
    uint32_t epoch, placement_version, waiting, running, max_context, max_batch, layers, experts, topk;
    uint64_t strangers;       /* connections, messages and calls that were not let in */
    uint32_t missing_experts; /* pairs on no worker; `missing` names the first */
    const char *missing;
    const struct journal_report *journal; /* NULL: none */
    const struct recovery_report *recovery; /* NULL: there is none */
    const struct health *health;
    const struct worker_report *workers;
    int n_workers;
};
struct links_report { /* [workers * workers], from row to column */
    uint32_t workers;
    const uint64_t *bytes, *frames, *wait_us, *waits;
    const uint64_t *extra, *stale, *duplicate, *bad; /* of frames; the last three as the column's worker dropped them */
    const uint64_t *p50_us, *p99_us; /* bounds; 0: under 1 us */
    const uint64_t *histogram;       /* [workers * workers * MSG_WAIT_BUCKETS] of waits */
    const uint64_t *tasks, *tasks_long, *tasks_longest_us; /* [workers] */
    uint64_t steps_whole, steps_halved; /* in one and in two microbatches */
    int slowest;                     /* -1: none stands out */
    uint32_t slowest_percent;
    struct hops_report {                  /* all zero on one host */
        uint32_t hosts, two_from;         /* two_from: tokens of the fullest worker from which plans take two hops; 0: none */
        struct hops_link inside, between; /* bytes_per_us 0: not known */
        uint64_t steps[2];                /* planned in one hop, in two */
        struct far_count far;             /* of all workers */
    } hops;
};
struct domain_report {
    const char *name;
    const uint64_t *rows; /* [layers * experts] */
    uint64_t tokens;
};
struct experts_report {
    uint32_t layers, experts;
    const uint64_t *rows;        /* [layers * experts] */
    const int32_t *model_layer;  /* [layers] */
    const uint64_t *worker_rows; /* [n_workers] */
    int n_workers;
    const uint32_t *first_host; /* [layers * experts]; UINT32_MAX: on no worker */
    uint64_t tokens;
    const struct domain_report *domains; /* [n_domains] */
    int n_domains;
};
