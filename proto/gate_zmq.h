/* gate_zmq.h - ZeroMQ's question for every newcomer (ZAP, RFC 27): may this key come in by this door? */
#pragma once
#include "proto/bus.h"
#include "proto/key.h"

struct gate;
/* A thread of its own answers from now on, for all sockets of this context. It ends when the context does: zmq_ctx_term first,
 * then gate_close. */
int gate_open(void *zmq, const struct key *key, struct gate **out, struct why *why);
void gate_close(struct gate *g);
/* How the gate calls an operator, as the property "User-Id" of what one sends; others have another. */
#define GATE_OPERATOR "operator"
/* The name by which the gate knows a door, for ZMQ_ZAP_DOMAIN. */
const char *gate_domain(enum bus_door door);
