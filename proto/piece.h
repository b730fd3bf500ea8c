/* piece.h - how workers ask each other for blobs (model/blob.h) and get them, in pieces: one head, and behind it the bytes.
 *
 *   WANT   bytes [at, at + n) of a blob                  ->
 *                                                        <-  PIECE  the same head, and n bytes in the body
 *                                                        <-  NONE   the same head: it is not here
 *
 * Each question is answered once, in order. A head is PIECE_HEAD bytes, little endian. Pure; any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PIECE_HEAD = 40, PIECE_MOST = 1 << 20 /* bytes in one */ };
enum piece_kind { PIECE_WANT = 1, PIECE_PIECE, PIECE_NONE };

struct piece {
    enum piece_kind kind;
    uint32_t ticket;              /* the asker's own: answers to what it has given up are told by it */
    uint32_t blob, layer, expert; /* as in struct blob_header: kind, layer, expert */
    uint64_t at;
    uint32_t n; /* 1 .. PIECE_MOST */
};
void piece_pack(const struct piece *p, uint8_t *head); /* [PIECE_HEAD] */
/* false: this is none. */
bool piece_unpack(struct piece *p, const uint8_t *head, size_t len);
