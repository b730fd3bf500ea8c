/* control.h - either end of control.proto: one Control message each way at a time, over a bus and two arenas (pb_arena.h).
 * For the two ports alone, which say what may be in a message. Owner: one thread. */
#pragma once
#include "proto/bus.h"
#include "proto/control.pb-c.h"
#include "proto/pb_arena.h"

typedef Cadre__Control__V1__Control pb_control; /* the generator's names are too long for a line */

struct control {
    struct bus *bus; /* borrowed */
    struct pb_arena pb;
};
/* message_bytes: what one message may unpack to. c must not move. */
void control_init(struct control *c, struct bus *bus, size_t message_bytes);
void control_clear(struct control *c);
/* The next message, valid until the next call, and who sent it. ERR_AGAIN: none. ERR_PROTOCOL: `*len` bytes that are no control
 * message, from there. Else the bus's error. */
int control_recv(struct control *c, const pb_control **out, struct bus_id *from, size_t *len);
/* to NULL: the server. Empties the out arena, sent or not. ERR_NOMEM, or the bus's error. */
int control_send(struct control *c, const struct bus_id *to, const pb_control *m);

#define CONTROL_MESSAGE(KIND, field, value)                                                                                    \
    {                                                                                                                          \
        .base = PROTOBUF_C_MESSAGE_INIT(&cadre__control__v1__control__descriptor),                                             \
        .kind_case = CADRE__CONTROL__V1__CONTROL__KIND_##KIND, .field = (value)                                                \
    }
