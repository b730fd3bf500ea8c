/* control.c - packs into one arena, unpacks into the other: once the largest message has been seen, nothing is allocated. */
#include "proto/control.h"

#include "base/status.h"

enum { KEEP_BYTES = 32 << 20 };

void control_init(struct control *c, struct bus *bus, size_t message_bytes) {
    *c = (struct control){.bus = bus};
    pb_arena_init(&c->pb, KEEP_BYTES, message_bytes);
}

void control_clear(struct control *c) { pb_arena_clear(&c->pb); }

int control_recv(struct control *c, const pb_control **out, struct bus_id *from, size_t *len) {
    struct bus_msg msg;
    *out = NULL;
    *len = 0;
    int rc = bus_recv(c->bus, &msg);
    if (rc < 0) return rc;
    *from = msg.from;
    *len = msg.head_len;
    *out = pb_arena_unpack(&c->pb, &cadre__control__v1__control__descriptor, msg.head, msg.head_len);
    return *out ? 0 : ERR_PROTOCOL;
}

int control_send(struct control *c, const struct bus_id *to, const pb_control *m) {
    size_t len;
    const uint8_t *bytes = pb_arena_pack(&c->pb, &m->base, &len);
    int rc = bytes ? bus_send(c->bus, to, bytes, len, NULL, 0) : ERR_NOMEM;
    pb_arena_reset_out(&c->pb);
    return rc;
}
