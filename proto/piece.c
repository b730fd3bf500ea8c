/* piece.c - see piece.h: magic, kind, ticket, blob, layer, expert, n, 4 bytes of nothing, at. */
#include "proto/piece.h"

enum { MAGIC = 0x50584443 /* "CDXP" */ };

static void put32(uint8_t *at, uint32_t v) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t get32(const uint8_t *at) {
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) v |= (uint32_t)at[i] << 8 * i;
    return v;
}

void piece_pack(const struct piece *p, uint8_t *head) {
    const uint32_t field[] = {MAGIC,     (uint32_t)p->kind, p->ticket,        p->blob,
                              p->layer,  p->expert,         p->n,             0,
                              (uint32_t)p->at, (uint32_t)(p->at >> 32)};
    _Static_assert(sizeof field == PIECE_HEAD, "a head is ten numbers");
    for (int i = 0; i < PIECE_HEAD / 4; i++) put32(head + 4 * i, field[i]);
}

bool piece_unpack(struct piece *p, const uint8_t *head, size_t len) {
    if (len != PIECE_HEAD || get32(head) != MAGIC || get32(head + 28)) return false;
    uint32_t kind = get32(head + 4);
    *p = (struct piece){.kind = (enum piece_kind)kind,
                        .ticket = get32(head + 8),
                        .blob = get32(head + 12),
                        .layer = get32(head + 16),
                        .expert = get32(head + 20),
                        .n = get32(head + 24),
                        .at = get32(head + 32) | (uint64_t)get32(head + 36) << 32};
    return kind >= PIECE_WANT && kind <= PIECE_NONE && p->n && p->n <= PIECE_MOST;
}
