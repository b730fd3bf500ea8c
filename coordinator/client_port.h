/* client_port.h - the coordinator's door to its clients: client.proto's methods in and out of the structs of msg.h.
 *
 * Reading: the result borrows from the payload and from the port, valid until the next read. Writing: the bytes returned are
 * the port's, valid until the next write; NULL when out of memory. Frames and calls are proto/call's. Owner: one thread. */
#pragma once
#include "base/status.h"
#include "coordinator/events.h"
#include "coordinator/stream.h"

struct client_port;
int client_port_new(struct client_port **out);
void client_port_free(struct client_port *p);

int client_port_read_generate(struct client_port *p, const uint8_t *payload, size_t len, struct generate_request *out,
                              struct why *why);
int client_port_read_resume(struct client_port *p, const uint8_t *payload, size_t len, struct resume_request *out,
                            struct why *why);
int client_port_read_tokenize(struct client_port *p, const uint8_t *payload, size_t len, struct tokenize_request *out,
                              struct why *why);
int client_port_read_trace(struct client_port *p, const uint8_t *payload, size_t len, const uint32_t **layers, size_t *n,
                           struct why *why);
int client_port_read_events(struct client_port *p, const uint8_t *payload, size_t len, uint64_t *after, bool *follow,
                            struct why *why);

const uint8_t *client_port_started(struct client_port *p, uint64_t request, int prompt_tokens, uint64_t seed, const char *model,
                                   bool resumable, size_t *len);
/* logprobs as in the request: 0 leaves them out. tokenizer (may be NULL) spells the alternatives. */
const uint8_t *client_port_tokens(struct client_port *p, const struct stream_piece *piece, uint32_t logprobs,
                                  const struct tokenizer *tokenizer, size_t *len);
const uint8_t *client_port_finished(struct client_port *p, const struct generate_finished *f, size_t *len);
const uint8_t *client_port_status(struct client_port *p, const struct status_report *r, size_t *len);
const uint8_t *client_port_experts(struct client_port *p, const struct experts_report *r, size_t *len);
int client_port_read_drain(struct client_port *p, const uint8_t *payload, size_t len, int *rank, struct why *why);
const uint8_t *client_port_links(struct client_port *p, const struct links_report *r, size_t *len);
const uint8_t *client_port_trace(struct client_port *p, const uint8_t *chunk, size_t chunk_len, size_t *len);
const uint8_t *client_port_event(struct client_port *p, const struct event *e, size_t *len);
/* Memory for what a report points to; valid until that report is written. */
void *client_port_scratch(struct client_port *p, size_t bytes);
const uint8_t *client_port_ids(struct client_port *p, const int32_t *ids, size_t n, size_t *len);
