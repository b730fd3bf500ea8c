/* cadre.h - the C client library of Cadre: text and tokens from a cluster, as they are made.
 *
 *     struct cadre_client *client;
 *     struct cadre_stream *stream;
 *     struct cadre_request request = {.prompt = "The sea is"};
 *     struct cadre_event event;
 *     if (cadre_open(CADRE_DEFAULT_ENDPOINT, NULL, &client) || cadre_generate(client, &request, &stream))
 *         ... cadre_error(client) says why ...
 *     while (!cadre_next(stream, -1, &event) && event.kind != CADRE_END) ...
 *     cadre_stream_close(stream);
 *     cadre_close(client);
 *
 * Results are int: CADRE_OK, one of the codes below, or CADRE_TIMEOUT. cadre_error(client) tells the last failure in one line.
 * A client may carry any number of streams at once, but belongs to one thread; threads open one client each.
 * Structs that you fill must be zeroed first: zero is the default of every field. Strings are UTF-8. What you pass in is
 * copied before a function returns. Link with `pkg-config --cflags --libs cadre`. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CADRE_API __attribute__((visibility("default")))
#define CADRE_DEFAULT_ENDPOINT "tcp://127.0.0.1:5770"

enum cadre_code { /* gRPC's status codes */
    CADRE_OK = 0,
    CADRE_CANCELLED = 1,
    CADRE_UNKNOWN = 2,
    CADRE_INVALID_ARGUMENT = 3,
    CADRE_DEADLINE_EXCEEDED = 4,
    CADRE_NOT_FOUND = 5,
    CADRE_ALREADY_EXISTS = 6,
    CADRE_PERMISSION_DENIED = 7,
    CADRE_RESOURCE_EXHAUSTED = 8,
    CADRE_FAILED_PRECONDITION = 9,
    CADRE_ABORTED = 10,
    CADRE_OUT_OF_RANGE = 11,
    CADRE_UNIMPLEMENTED = 12,
    CADRE_INTERNAL = 13,
    CADRE_UNAVAILABLE = 14,
    CADRE_DATA_LOSS = 15,
    CADRE_UNAUTHENTICATED = 16,
    CADRE_TIMEOUT = -1 /* not a failure: nothing came within the time given, or a signal arrived */
};
CADRE_API const char *cadre_code_name(int code); /* "INVALID_ARGUMENT" */
CADRE_API const char *cadre_version(void);

struct cadre_client;
struct cadre_stream;

/* ---- client ---- */
struct cadre_options {
    uint32_t connect_timeout_ms; /* without a connection a call ends UNAVAILABLE after this; 0 = 5000 */
    uint32_t silence_timeout_ms; /* so does a call the server says nothing about; 0 = 15000. Servers ping every second */
    uint32_t window;             /* events the server may send ahead of you, per stream; 0 = 64 */
    int once;                    /* 1: a connection that is refused ends calls UNAVAILABLE at once; 0: it is tried again until
                                    connect_timeout_ms is over, for servers that are just starting */
    uint32_t resume_timeout_ms;  /* an answer that survives its connection (CADRE_STARTED says so) looks so long for the server
                                    before it ends UNAVAILABLE; 0 = 60000. What came before is never repeated. A request whose
                                    connection broke before anything came is said again, by its call id, and so long also to a
                                    server that is just starting and says UNAVAILABLE */
    const char *key_file;        /* of a cluster that has a key (`cadre keygen`): read by cadre_open; NULL: it has none */
};
/* Connects in the background: whether a server is there shows with the first call. options may be NULL. *out is set even when
 * this fails, so that cadre_error can say why (NULL only without memory); close it in any case. */
CADRE_API int  cadre_open(const char *endpoint, const struct cadre_options *options, struct cadre_client **out);
CADRE_API void cadre_close(struct cadre_client *client);              /* its streams are cancelled and closed; NULL is fine */
CADRE_API const char *cadre_error(const struct cadre_client *client); /* valid until the next call on this client */
/* For a poll set. Readable once when something arrives: then, and before every sleep, cadre_wait(client, 0, ...) until it
 * says CADRE_TIMEOUT. */
CADRE_API int cadre_fd(const struct cadre_client *client);

/* ---- generate ---- */
struct cadre_message {
    const char *role;        /* "system", "user", "assistant" */
    const char *content;
    size_t content_len;      /* bytes; 0 = up to the NUL */
};
struct cadre_request {
    /* Exactly one of these three: text used as it is, token ids, or messages through the model's chat template. */
    const char *prompt;
    size_t prompt_len;       /* bytes; 0 = up to the NUL */
    const int32_t *ids;
    size_t n_ids;
    const struct cadre_message *messages;
    size_t n_messages;

    float temperature;       /* 0 = greedy */
    float top_p;             /* 0 or 1 = off */
    float min_p;             /* 0 = off */
    uint32_t top_k;          /* 0 = off */
    uint64_t seed;
    int has_seed;            /* 0: the server draws one and reports it */
    uint32_t max_tokens;
    int has_max_tokens;      /* 0: up to the model's context */
    const char *const *stop; /* at most 16 strings of up to 256 bytes: the text ends before the first one */
    size_t n_stop;
    const int32_t *stop_ids; /* at most 16 */
    size_t n_stop_ids;
    int ignore_eos;
    uint32_t logprobs;       /* 0 none; n + 1: the chosen token's and those of the n most likely, n <= 20 */
    uint64_t timeout_ms;     /* the whole call's deadline; 0 = none */
    int32_t priority;        /* lower runs earlier, -1000 to 1000 */
    const char *tag, *tenant; /* at most 64 bytes each, or NULL. tag: domain, for counts and traces; tenant: fairness to come */
    int allow_degraded;      /* where an expert is on no worker: answer without it rather than wait for it */
};

enum cadre_event_kind { CADRE_STARTED, CADRE_TOKENS, CADRE_FINISHED, CADRE_END };
struct cadre_top {
    int32_t id;
    float logprob;
    const char *text;        /* the token's bytes: not always whole UTF-8, not NUL-terminated */
    size_t text_len;
};
struct cadre_token {
    int32_t id;
    float logprob;           /* natural log; 0 unless asked for */
    const struct cadre_top *top;
    size_t n_top;
};
/* A stream is STARTED, TOKENS*, FINISHED, END; after a failure END comes early. Fields of other kinds are zero. */
struct cadre_event {
    enum cadre_event_kind kind;
    /* CADRE_STARTED */
    uint64_t request;        /* the cluster's own number of the request */
    uint64_t seed;
    const char *model;
    int resumable;           /* 1: should the connection break, or the server die and come back, the stream goes on by itself */
    /* CADRE_STARTED, CADRE_FINISHED */
    uint32_t prompt_tokens;
    /* CADRE_TOKENS, CADRE_FINISHED: append to the answer. Whole UTF-8; may lag behind the tokens */
    const char *text;
    size_t text_len;
    /* CADRE_TOKENS */
    uint32_t first;          /* index of tokens[0] in the answer */
    const struct cadre_token *tokens;
    size_t n_tokens;
    /* CADRE_FINISHED */
    const char *reason;      /* "stop", "length" */
    uint32_t completion_tokens, cached_tokens, preemptions; /* cached_tokens: of the prompt; 0 in this version */
    int degraded;            /* some expert was on no worker while it ran, and was left out of the choice */
    uint64_t queue_us, prefill_us, decode_us; /* on the server's clock: until scheduled, first token, last token */
    /* CADRE_END */
    int status;              /* CADRE_OK or why not */
    const char *message;
};
/* Checks the request, sends it and returns at once. */
CADRE_API int cadre_generate(struct cadre_client *client, const struct cadre_request *request, struct cadre_stream **out);
/* The stream's next event, valid until the next cadre_next or cadre_stream_close of this stream: CADRE_OK, or CADRE_TIMEOUT
 * after timeout_ms (0 = only look, -1 = wait as long as it takes). Repeats END once that has been reached. */
CADRE_API int cadre_next(struct cadre_stream *stream, int timeout_ms, struct cadre_event *event);
/* Waits until any stream of the client has an event for cadre_next, in fair turns; *ready says which. A stream whose END was
 * taken is not reported again. */
CADRE_API int cadre_wait(struct cadre_client *client, int timeout_ms, struct cadre_stream **ready);
/* Asks the cluster to stop working on it; END (CADRE_CANCELLED, or CADRE_OK if it was faster) still comes. */
CADRE_API void cadre_cancel(struct cadre_stream *stream);
CADRE_API void cadre_stream_close(struct cadre_stream *stream); /* cancels if need be; NULL is fine */
CADRE_API void  cadre_stream_set_user(struct cadre_stream *stream, void *user);
CADRE_API void *cadre_stream_user(const struct cadre_stream *stream);

/* ---- the cluster; each waits for the answer. timeout_ms 0 = as the client's options say ---- */
struct cadre_time {          /* where a worker's time went, in microseconds; all but the last within steps */
    uint64_t attention;      /* with its norms and projections */
    uint64_t dense;          /* shared experts, layers without experts */
    uint64_t gate;
    uint64_t dispatch;       /* packing, sending, sorting by expert */
    uint64_t experts;
    uint64_t combine;        /* the same on the way back, and the sum */
    uint64_t wait;           /* for peers, with nothing else to do; wait_us counts it for each of them */
    uint64_t output;         /* embedding, logits, sampling, the report */
    uint64_t scheduler;      /* between a step and the one that goes on with its sequences */
};
struct cadre_worker {
    uint32_t rank;
    const char *host;
    uint64_t pid;
    const char *state;       /* "expected", "connected", "loading", "ready", "suspect", "dead", "left" */
    uint32_t load_percent;
    uint64_t weight_bytes;   /* routed experts */
    uint64_t resident_bytes; /* attention, embeddings, shared experts */
    uint64_t kv_bytes;
    uint32_t kv_pages, kv_pages_used, sequences;
    uint32_t experts;        /* slots over all layers */
    uint64_t rows;           /* expert rows executed */
    uint64_t beat_age_us, wait_us, busy_us;
    uint64_t mapped_bytes;   /* of these two: pages of the checkpoint's files, one copy for all workers of a host */
    uint64_t buffer_bytes;   /* activations and logits of the largest step */
    uint64_t exchange_bytes; /* rows for the experts of the largest step; address space until rows come */
    uint64_t pack_blobs, peer_blobs, disk_blobs; /* of its experts, since its process began: mapped from a pack, fetched from
                                                  * other workers, read from the checkpoint */
    uint64_t source_failures; /* that a pack or a worker should have given, and did not */
    const char *placement;   /* "0-3": experts held, the same in every layer; else how many */
    struct cadre_time time;
};
struct cadre_journal {       /* what the coordinator writes down of requests; counts since its start */
    const char *dir;
    const char *fault;       /* why new requests are refused now; "" when they are not */
    uint64_t records, bytes, syncs, segments;
    uint64_t dropped;        /* tokens that were not written down: they would be computed again */
    uint64_t segment_bytes, requests;  /* in its file now */
    uint64_t lag_us, lag_bytes;        /* of what is not written yet: age of the oldest, and how much */
};
struct cadre_recovery {      /* of workers that died while the cluster served */
    const char *without_one; /* why the others could not hold the model without one of them; "": they can */
    uint64_t deaths;
    /* Of the last recovery that is over: found dead, told the others, loaded what was lost, a step, all answers go on. */
    uint64_t detect_us, decide_us, reload_us, first_step_us, recompute_us;
};
struct cadre_health {        /* of the part that is worst off */
    int level;               /* 0 green: every part moves; 1 amber: it serves, and a part is late; 2 red: it does not serve */
    const char *part, *text; /* "" when green */
};
struct cadre_cluster {
    const char *version, *model, *family;
    const char *state;       /* "loading", "serving", "recovering" (workers died: requests wait), "draining", "failed" */
    const char *reason;      /* why it is not serving */
    const char *numeric_class, *fabric, *listen, *control;
    uint64_t uptime_us, steps, finished, cancelled, expired, failed, preemptions, prompt_tokens, generated_tokens;
    uint32_t epoch, placement_version, waiting, running, max_context, max_batch;
    uint32_t layers, experts, topk; /* MoE layers, experts in each, experts per token */
    uint64_t strangers; /* not let in, without the key that it takes: connections, messages between workers, clients' Drain */
    /* (layer, expert) pairs that are on no worker: requests that do not allow degraded answers wait */
    uint32_t missing_experts;
    const char *missing;      /* the first of them, for people; "" when there is none */
    const struct cadre_journal *journal; /* NULL: the cluster keeps none, requests end with their connection */
    const struct cadre_recovery *recovery; /* NULL: a worker's death ends the cluster */
    struct cadre_health health;
    const struct cadre_worker *workers;
    size_t n_workers;
};
CADRE_API int  cadre_status(struct cadre_client *client, uint32_t timeout_ms, struct cadre_cluster **out);
CADRE_API void cadre_cluster_free(struct cadre_cluster *cluster);

struct cadre_hops {          /* how tokens get to other hosts */
    uint32_t hosts;
    uint64_t inside_latency_ns, inside_rate;   /* the slowest link inside a host, as measured at the start */
    uint64_t between_latency_ns, between_rate; /* the same between hosts; rates: bytes per second, 0: not known */
    uint32_t two_from;        /* steps whose fullest worker has so many tokens go there once, and on from there; 0: none do */
    uint64_t direct_steps, two_hop_steps;          /* so far */
    uint64_t far_rows, far_direct;                 /* copies of tokens sent to other hosts; as many in one hop */
    uint64_t far_answers;                          /* rows that came back */
    uint64_t far_dispatch_bytes, far_combine_bytes; /* payload of the copies, and of the answers */
};
struct cadre_links {         /* what passes between workers: tables [n * n], from the row's worker to the column's */
    uint32_t n;
    const uint64_t *bytes, *frames;   /* sent since the start; late by up to a second */
    const uint64_t *wait_us;          /* how long the column's worker stood waiting for the row's */
    const uint64_t *waits;            /* messages that it needed from it */
    const uint64_t *p50_us, *p99_us;  /* half of them, 99 in 100, came within so long; 0: less than 1 us */
    uint32_t buckets;
    const uint64_t *histogram;        /* [n * n * buckets] messages: in bucket 0 within 1 us, in bucket b within 2^b us */
    int slowest;                      /* the worker that holds the others up; -1: none stands out */
    uint32_t slowest_percent;         /* of the others' time in the last steps that they waited for it */
    /* of frames: beyond the first of a message; and dropped by the column's worker as too late, had before, not readable */
    const uint64_t *extra, *stale, *duplicate, *bad;
    struct cadre_hops hops;
    uint64_t steps_whole, steps_halved; /* steps whose rows ran in one piece; in two microbatches that took turns */
    /* [n] how often a worker computed for a while without letting frames move; longer than 0.2 ms; the longest */
    const uint64_t *tasks, *tasks_long, *tasks_longest_us;
};
CADRE_API int  cadre_links(struct cadre_client *client, uint32_t timeout_ms, struct cadre_links **out);
CADRE_API void cadre_links_free(struct cadre_links *links);

/* A worker is to leave: its requests go on elsewhere, and it ends (state "left") when the others hold its experts.
 * CADRE_OK: that has begun. CADRE_NOT_FOUND: there is none; CADRE_RESOURCE_EXHAUSTED: the others could not hold the model. */
CADRE_API int  cadre_drain(struct cadre_client *client, uint32_t rank, uint32_t timeout_ms);

struct cadre_domain_load {   /* what tokens of one domain chose, as their homes counted it; late by a tenth of a second */
    const char *name;
    const uint64_t *rows;         /* [layers * experts] */
    uint64_t tokens;              /* rows of tokens, as below; 0: not known */
};
struct cadre_load {          /* expert rows executed, as the workers counted them */
    uint32_t layers, experts;
    const uint64_t *rows;         /* [layers * experts] */
    const int32_t *model_layer;   /* [layers] the layer's index in the model */
    const uint32_t *hosts;        /* [layers * experts] first worker that holds it; UINT32_MAX: none does */
    const uint64_t *worker_rows;  /* [n_workers] */
    size_t n_workers;
    uint64_t tokens;              /* rows of tokens that were run: each went through every layer */
    const struct cadre_domain_load *domains; /* [n_domains] of requests with a tag, by tag */
    size_t n_domains;
};
CADRE_API int  cadre_experts(struct cadre_client *client, uint32_t timeout_ms, struct cadre_load **out);
CADRE_API void cadre_load_free(struct cadre_load *load);

/* Records where tokens are sent, from the next step on until cadre_cancel or cadre_stream_close: a stream of chunks of the
 * format in docs/TRACE.md, the first is its HEAD. layers: the model's numbers; n 0: all that have experts. One client at a
 * time. Nothing in the cluster waits for a reader: what does not fit is dropped there, and LOST chunks say how much. */
CADRE_API int cadre_trace(struct cadre_client *client, const uint32_t *layers, size_t n, struct cadre_stream **out);
/* The next chunk, valid until the next call: CADRE_OK, or CADRE_TIMEOUT (see cadre_next). At the end *chunk is NULL and the
 * result says how it ended. */
CADRE_API int cadre_trace_next(struct cadre_stream *stream, int timeout_ms, const void **chunk, size_t *bytes);

struct cadre_figure {
    const char *name;        /* with its unit at the end: "reload_us" */
    uint64_t value;
};
struct cadre_cluster_event { /* something that happened to the cluster */
    uint64_t number;         /* from 1 at each start of the coordinator, without gaps: one that is missing was overwritten */
    int64_t unix_us;         /* on the coordinator's clock */
    const char *kind;        /* "worker-dead", "epoch-begun", ...: more may come */
    int rank;                /* -1: of no worker */
    const char *text;
    uint32_t times;          /* that the same was said at once */
    const struct cadre_figure *figures;
    size_t n_figures;
};
/* Those with a number above `after` that the cluster still has; with follow 1 also those to come, until cadre_cancel or
 * cadre_stream_close. */
CADRE_API int cadre_events(struct cadre_client *client, uint64_t after, int follow, struct cadre_stream **out);
/* The next one, valid until the next call: CADRE_OK, or CADRE_TIMEOUT (see cadre_next). At the end *out is NULL and the result
 * says how it ended. */
CADRE_API int cadre_events_next(struct cadre_stream *stream, int timeout_ms, const struct cadre_cluster_event **out);

/* Token ids of request->prompt or request->messages (other fields are ignored). Free *ids with cadre_ids_free. */
CADRE_API int  cadre_tokenize(struct cadre_client *client, const struct cadre_request *request, uint32_t timeout_ms,
                              int32_t **ids, size_t *n);
CADRE_API void cadre_ids_free(int32_t *ids);

#ifdef __cplusplus
}
#endif
