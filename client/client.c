/* client.c - the public face of the library: open, generate, events, and the three questions about the cluster. */
#include "base/conf.h"
#include "client/client.h"
#include "proto/call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONNECT_MS = 5000, SILENCE_MS = 15000, RESUME_MS = 60000, WINDOW = 64 };

const char *cadre_code_name(int code) { return code == CADRE_TIMEOUT ? "TIMEOUT" : call_status_name(code); }
const char *cadre_version(void) { return CADRE_VERSION; }
const char *cadre_error(const struct cadre_client *c) { return c ? c->why.text : "out of memory"; }
int cadre_fd(const struct cadre_client *c) { return c->bus ? bus_fd(c->bus) : -1; }

int cadre_open(const char *endpoint, const struct cadre_options *options, struct cadre_client **out) {
    struct cadre_client *c = *out = calloc(1, sizeof *c);
    if (!c) return CADRE_RESOURCE_EXHAUSTED;
    if (options) c->options = *options;
    if (!c->options.connect_timeout_ms) c->options.connect_timeout_ms = CONNECT_MS;
    if (!c->options.silence_timeout_ms) c->options.silence_timeout_ms = SILENCE_MS;
    if (!c->options.resume_timeout_ms) c->options.resume_timeout_ms = RESUME_MS;
    if (!c->options.window) c->options.window = WINDOW;
    list_init(&c->streams);
    list_init(&c->ready);
    for (int i = 0; i < CLIENT_BUCKETS; i++) list_init(&c->table[i]);
    snprintf(c->endpoint, sizeof c->endpoint, "%s", endpoint ? endpoint : CADRE_DEFAULT_ENDPOINT);
    int rc = bus_context_open(&c->context, c->options.key_file, &c->why);
    if (rc >= 0) rc = bus_zmq_connect(c->context, BUS_CLIENTS, c->endpoint, &c->bus, &c->why);
    c->options.key_file = NULL; /* the caller's, until now */
    return rc < 0 ? call_status_from(rc) : CADRE_OK;
}

void cadre_close(struct cadre_client *c) {
    if (!c) return;
    struct list *i, *tmp;
    list_for(i, tmp, &c->streams) cadre_stream_close(list_entry(i, struct cadre_stream, node));
    bus_close(c->bus);
    bus_context_close(c->context);
    free(c);
}

int cadre_generate(struct cadre_client *c, const struct cadre_request *request, struct cadre_stream **out) {
    *out = NULL;
    int rc = check_request(c, request);
    if (rc) return rc;
    size_t len;
    uint8_t *bytes = port_encode_generate(request, &len);
    if (!bytes) return client_fail(c, CADRE_RESOURCE_EXHAUSTED, "the client is out of memory");
    rc = stream_open(c, "Generate", bytes, len, request->timeout_ms, c->options.window, out);
    if (rc) {
        free(bytes);
        return rc;
    }
    (*out)->generate = true;
    (*out)->payload = bytes;
    (*out)->payload_len = len;
    (*out)->timeout_ms = request->timeout_ms;
    return CADRE_OK;
}

static void end_event(struct cadre_stream *s, struct cadre_event *e) {
    *e = (struct cadre_event){.kind = CADRE_END, .status = s->status, .message = s->message ? s->message : ""};
    if (s->status) client_fail(s->client, s->status, "%s", e->message);
    s->end_taken = true;
    list_remove(&s->in_ready);
}

int cadre_next(struct cadre_stream *s, int timeout_ms, struct cadre_event *e) {
    if (!stream_wait(s->client, s, timeout_ms)) return CADRE_TIMEOUT;
    port_release(s->hold);
    s->hold = NULL;
    arena_reset(&s->arena);
    struct item *item = stream_take(s);
    if (!item) return end_event(s, e), CADRE_OK;
    int rc = port_decode_event(item->bytes, item->len, &s->arena, e, &s->hold);
    free(item);
    if (rc) return client_fail(s->client, rc, "the server at %s sent an event that cannot be read", s->client->endpoint);
    resume_note(&s->taken, e);
    return CADRE_OK;
}

int cadre_wait(struct cadre_client *c, int timeout_ms, struct cadre_stream **ready) {
    if (!stream_wait(c, NULL, timeout_ms)) return CADRE_TIMEOUT;
    *ready = list_entry(c->ready.next, struct cadre_stream, in_ready);
    return CADRE_OK;
}

/* One request, one reply: the item in *out is the caller's. */
static int ask(struct cadre_client *c, const char *method, const void *payload, size_t len, uint32_t timeout_ms,
               struct item **out) {
    struct cadre_stream *s;
    int rc = stream_open(c, method, payload, len, timeout_ms, 1, &s);
    if (rc) return rc;
    *out = NULL;
    while (!s->ended) {
        bool came = stream_wait(c, s, timeout_ms ? (int64_t)timeout_ms : -1);
        struct item *item = stream_take(s);
        if (item) {
            free(*out);
            *out = item;
        } else if (!came) {
            break;
        }
    }
    if (!s->ended) rc = client_fail(c, CADRE_DEADLINE_EXCEEDED, "the server at %s gave no answer in time", c->endpoint);
    else if (s->status) rc = client_fail(c, s->status, "%s", s->message ? s->message : "");
    else if (!*out) *out = stream_take(s);
    cadre_stream_close(s);
    if (!rc && !*out) rc = client_fail(c, CADRE_INTERNAL, "the server at %s answered %s with nothing", c->endpoint, method);
    if (rc) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

int cadre_trace(struct cadre_client *c, const uint32_t *layers, size_t n, struct cadre_stream **out) {
    *out = NULL;
    size_t len;
    uint8_t *bytes = port_encode_trace(layers, n, &len);
    if (!bytes) return client_fail(c, CADRE_RESOURCE_EXHAUSTED, "the client is out of memory");
    int rc = stream_open(c, "Trace", bytes, len, 0, c->options.window, out);
    free(bytes);
    return rc;
}

int cadre_trace_next(struct cadre_stream *s, int timeout_ms, const void **chunk, size_t *bytes) {
    *chunk = NULL;
    *bytes = 0;
    if (!stream_wait(s->client, s, timeout_ms)) return CADRE_TIMEOUT;
    port_release(s->hold);
    s->hold = NULL;
    struct item *item = stream_take(s);
    if (!item) {
        struct cadre_event end;
        end_event(s, &end);
        return end.status;
    }
    int rc = port_decode_trace(item->bytes, item->len, chunk, bytes, &s->hold);
    free(item);
    return rc ? client_fail(s->client, rc, "the server at %s sent a record that cannot be read", s->client->endpoint)
              : CADRE_OK;
}

int cadre_events(struct cadre_client *c, uint64_t after, int follow, struct cadre_stream **out) {
    *out = NULL;
    size_t len;
    uint8_t *bytes = port_encode_events(after, follow != 0, &len);
    if (!bytes) return client_fail(c, CADRE_RESOURCE_EXHAUSTED, "the client is out of memory");
    int rc = stream_open(c, "Events", bytes, len, 0, c->options.window, out);
    free(bytes);
    return rc;
}

int cadre_events_next(struct cadre_stream *s, int timeout_ms, const struct cadre_cluster_event **out) {
    *out = NULL;
    if (!stream_wait(s->client, s, timeout_ms)) return CADRE_TIMEOUT;
    port_release(s->hold);
    s->hold = NULL;
    arena_reset(&s->arena);
    struct item *item = stream_take(s);
    if (!item) {
        struct cadre_event end;
        end_event(s, &end);
        return end.status;
    }
    *out = port_decode_cluster_event(item->bytes, item->len, &s->arena, &s->hold);
    free(item);
    return *out ? CADRE_OK
                : client_fail(s->client, CADRE_INTERNAL, "the server at %s sent an event that cannot be read",
                              s->client->endpoint);
}

static int unreadable(struct cadre_client *c, const char *method) {
    return client_fail(c, CADRE_INTERNAL, "the answer to %s from %s cannot be read", method, c->endpoint);
}

int cadre_status(struct cadre_client *c, uint32_t timeout_ms, struct cadre_cluster **out) {
    struct item *item;
    int rc = ask(c, "Status", NULL, 0, timeout_ms, &item);
    if (rc) return rc;
    *out = port_decode_status(item->bytes, item->len);
    free(item);
    return *out ? CADRE_OK : unreadable(c, "Status");
}

int cadre_links(struct cadre_client *c, uint32_t timeout_ms, struct cadre_links **out) {
    struct item *item;
    int rc = ask(c, "Links", NULL, 0, timeout_ms, &item);
    if (rc) return rc;
    *out = port_decode_links(item->bytes, item->len);
    free(item);
    return *out ? CADRE_OK : unreadable(c, "Links");
}

int cadre_drain(struct cadre_client *c, uint32_t rank, uint32_t timeout_ms) {
    struct item *item;
    size_t len;
    uint8_t *bytes = port_encode_drain(rank, &len);
    if (!bytes) return client_fail(c, CADRE_RESOURCE_EXHAUSTED, "the client is out of memory");
    int rc = ask(c, "Drain", bytes, len, timeout_ms, &item);
    free(bytes);
    if (!rc) free(item);
    return rc;
}

int cadre_experts(struct cadre_client *c, uint32_t timeout_ms, struct cadre_load **out) {
    struct item *item;
    int rc = ask(c, "Experts", NULL, 0, timeout_ms, &item);
    if (rc) return rc;
    *out = port_decode_experts(item->bytes, item->len);
    free(item);
    return *out ? CADRE_OK : unreadable(c, "Experts");
}

int cadre_tokenize(struct cadre_client *c, const struct cadre_request *request, uint32_t timeout_ms, int32_t **ids, size_t *n) {
    int rc = check_input(c, request);
    if (rc) return rc;
    if (request->ids) return client_fail(c, CADRE_INVALID_ARGUMENT, "tokenize wants a prompt or messages, not token ids");
    size_t len;
    struct item *item;
    uint8_t *bytes = port_encode_tokenize(request, &len);
    if (!bytes) return client_fail(c, CADRE_RESOURCE_EXHAUSTED, "the client is out of memory");
    rc = ask(c, "Tokenize", bytes, len, timeout_ms, &item);
    free(bytes);
    if (rc) return rc;
    rc = port_decode_ids(item->bytes, item->len, ids, n);
    free(item);
    return rc ? unreadable(c, "Tokenize") : CADRE_OK;
}

void cadre_ids_free(int32_t *ids) { free(ids); }
