/* pb_arena.c - an allocator for protobuf-c whose free does nothing: the arena is emptied before the next message instead. */
#include "proto/pb_arena.h"

enum { BLOCK_BYTES = 1 << 16 };

static void *in_alloc(void *ctx, size_t bytes) {
    struct pb_arena *p = ctx;
    return bytes > p->limit || p->in.used > p->limit - bytes ? NULL : arena_alloc(&p->in, bytes);
}
static void in_free(void *ctx, void *mem) { (void)ctx, (void)mem; }

void pb_arena_init(struct pb_arena *p, size_t keep, size_t limit) {
    *p = (struct pb_arena){.keep = keep, .limit = limit};
    arena_init(&p->in, BLOCK_BYTES);
    arena_init(&p->out, BLOCK_BYTES);
    p->allocator = (ProtobufCAllocator){.alloc = in_alloc, .free = in_free, .allocator_data = p};
}

void pb_arena_clear(struct pb_arena *p) {
    arena_clear(&p->in);
    arena_clear(&p->out);
}

/* One huge message must not stay in memory for the life of the process. */
static void reset(const struct pb_arena *p, struct arena *a) {
    if (a->held > p->keep) arena_clear(a);
    else arena_reset(a);
}

const void *pb_arena_unpack(struct pb_arena *p, const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t len) {
    reset(p, &p->in);
    return protobuf_c_message_unpack(type, &p->allocator, len, bytes);
}

const uint8_t *pb_arena_pack(struct pb_arena *p, const ProtobufCMessage *m, size_t *len) {
    *len = protobuf_c_message_get_packed_size(m);
    uint8_t *buf = arena_alloc(&p->out, *len);
    if (buf) protobuf_c_message_pack(m, buf);
    return buf;
}

void pb_arena_reset_out(struct pb_arena *p) { reset(p, &p->out); }
