/* pb_arena.h - protobuf-c over two arenas: `in` for the message being read, `out` for the one being written.
 *
 * Nothing is freed piece by piece, and once the largest usual message has been seen nothing is allocated. A small message can
 * unpack to a hundred times its size (a repeated message costs two bytes on the wire), so what one may unpack to is limited.
 * Callers may put their own arrays beside a message: what is in `in` lives until the next unpack, in `out` until its reset.
 * Owner: one thread. */
#pragma once
#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"

struct pb_arena {
    struct arena in, out;
    size_t keep, limit;           /* bytes an arena keeps for the next message; bytes one message may unpack to */
    ProtobufCAllocator allocator; /* over `in`; points to this struct, which must therefore not move */
};

void pb_arena_init(struct pb_arena *p, size_t keep, size_t limit);
void pb_arena_clear(struct pb_arena *p);
/* Empties `in` first. NULL: the bytes are no message of this type, or one beyond the limit. */
const void *pb_arena_unpack(struct pb_arena *p, const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t len);
/* NULL without memory. */
const uint8_t *pb_arena_pack(struct pb_arena *p, const ProtobufCMessage *m, size_t *len);
void pb_arena_reset_out(struct pb_arena *p);
