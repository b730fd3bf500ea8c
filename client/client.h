/* client.h - inside the client library: a client, its streams, and what the files of this folder ask of each other.
 * Owner of everything here: the application's thread. */
#pragma once
#include <stdbool.h>

#include "base/arena.h"
#include "base/list.h"
#include "client/cadre.h"
#include "proto/bus.h"
#include "proto/frame.h"

enum { CLIENT_BUCKETS = 256 };

struct cadre_client {
    struct bus_context *context;
    struct bus *bus;
    struct cadre_options options;    /* defaults filled in */
    struct list streams, ready;      /* all; those with an event to take */
    struct list table[CLIENT_BUCKETS]; /* open ones by call id */
    struct bus_link link;            /* as of the last pump */
    int64_t checked_us;              /* when silence was last looked for */
    char endpoint[256];
    struct why why;
};
struct item {                        /* one Data payload, not yet looked at */
    struct list node;
    size_t len;
    uint8_t bytes[];
};
struct resume_progress { /* what has arrived of an answer */
    bool started, resumable, finished;
    uint32_t tokens;
    uint64_t text_bytes;
};
struct cadre_stream {
    struct cadre_client *client;
    struct list node, in_table, in_ready;
    uint8_t id[FRAME_CALL_ID_BYTES];
    struct list items;
    uint64_t next_index;
    uint32_t window, consumed;       /* credits granted at first; events taken since the last Credit */
    int64_t opened_us, heard_us;     /* heard_us 0: nothing yet */
    uint64_t refused;                /* connections refused before it was opened */
    bool ended, end_taken, cancelled;
    int status;                      /* valid when ended */
    char *message;
    void *user;
    /* resume.c; of a Generate */
    uint8_t *payload;                /* until the first Data */
    size_t payload_len;
    uint64_t timeout_ms;
    uint8_t request_id[FRAME_CALL_ID_BYTES]; /* the Generate's own call id; `id` changes */
    bool generate, got_data;
    bool lost, resumed;              /* lost: nothing was heard since its connection broke; resumed: its call is a Resume */
    int64_t lost_us, again_us;       /* again_us: when to ask again, after a server that says UNAVAILABLE; 0: no */
    struct resume_progress taken;    /* by the application */
    struct arena arena;              /* the event given out last */
    void *hold;
};

/* stream.c */
int  stream_open(struct cadre_client *c, const char *method, const void *payload, size_t len, uint64_t timeout_ms,
                 uint32_t window, struct cadre_stream **out);
/* The call begins anew, under `id`; what is queued stays. CADRE_OK or UNAVAILABLE. */
int  stream_reopen(struct cadre_stream *s, const char *method, const uint8_t *id, const void *payload, size_t len);
/* Receives what there is; ends streams whose server fell silent. */
void stream_pump(struct cadre_client *c);
/* Pumps until the stream has an item or ended: true; false when timeout_ms passed or a signal came. */
bool stream_wait(struct cadre_client *c, const struct cadre_stream *s, int64_t timeout_ms);
struct item *stream_take(struct cadre_stream *s); /* caller frees; NULL: none */
/* Stores the reason for cadre_error and returns code. */
int client_fail(struct cadre_client *c, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* resume.c */
enum resume_verdict { RESUME_NOT, RESUME_ASKED, RESUME_COMPLETE };
enum resume_verdict resume_lost(struct cadre_stream *s); /* its connection broke */
/* The call was ended: true when it is going to be asked for again, so that nobody is told. */
bool resume_later(struct cadre_stream *s, uint32_t status, const char *message);
void resume_note(struct resume_progress *p, const struct cadre_event *e);

/* check.c: CADRE_OK or INVALID_ARGUMENT with the reason stored. */
int check_input(struct cadre_client *c, const struct cadre_request *r);
int check_request(struct cadre_client *c, const struct cadre_request *r);

/* port.c: protobuf. Encoders return malloc'ed bytes, NULL without memory. */
uint8_t *port_encode_generate(const struct cadre_request *r, size_t *len);
uint8_t *port_encode_resume(const uint8_t id[FRAME_CALL_ID_BYTES], const struct resume_progress *p, size_t *len);
uint8_t *port_encode_tokenize(const struct cadre_request *r, size_t *len);
/* Fills e, whose pointers live in *hold (port_release) and in the arena. CADRE_INTERNAL when the bytes are no event. */
int  port_decode_event(const uint8_t *bytes, size_t len, struct arena *arena, struct cadre_event *e, void **hold);
void port_release(void *hold);
struct cadre_cluster *port_decode_status(const uint8_t *bytes, size_t len);
uint8_t *port_encode_drain(uint32_t rank, size_t *len); /* NULL: out of memory */
struct cadre_links *port_decode_links(const uint8_t *bytes, size_t len);
struct cadre_load *port_decode_experts(const uint8_t *bytes, size_t len);
uint8_t *port_encode_trace(const uint32_t *layers, size_t n, size_t *len);
int port_decode_trace(const uint8_t *bytes, size_t len, const void **chunk, size_t *n, void **hold);
uint8_t *port_encode_events(uint64_t after, bool follow, size_t *len);
/* In the arena; its strings in *hold. NULL: the bytes are no event, or no memory. */
const struct cadre_cluster_event *port_decode_cluster_event(const uint8_t *bytes, size_t len, struct arena *arena, void **hold);
int port_decode_ids(const uint8_t *bytes, size_t len, int32_t **ids, size_t *n);
