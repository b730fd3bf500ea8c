/* link_header.c - see link_header.h. */
#include "fabric/link_header.h"

#include <stddef.h>
#include <string.h>

#include "base/hash.h"
#include "fabric/fabric.h"

enum { MAGIC = 0x32584355 /* "UCX2" */ };

size_t link_address_write(void *out, int rank, uint64_t nonce, const struct guard_sources *sources, const void *ucx,
                          size_t ucx_bytes) {
    struct link_address a = {.magic = MAGIC, .rank = (uint32_t)rank, .nonce = nonce, .sources = *sources};
    unsigned char *p = out;
    if (ucx_bytes > FABRIC_ADDRESS_BYTES - sizeof a) return 0;
    memcpy(p, &a, sizeof a);
    memcpy(p + sizeof a, ucx, ucx_bytes);
    a.check = hash_bytes(p, sizeof a + ucx_bytes);
    memcpy(p, &a, sizeof a);
    return sizeof a + ucx_bytes;
}

int link_address_read(const void *address, size_t bytes, int rank, struct link_address *out, struct why *why) {
    unsigned char copy[FABRIC_ADDRESS_BYTES];
    if (bytes <= sizeof *out || bytes > sizeof copy)
        return fail(why, ERR_PROTOCOL, "fabric ucx: rank %d has an address of %zu bytes", rank, bytes);
    memcpy(copy, address, bytes);
    memcpy(out, copy, sizeof *out);
    if (out->magic != MAGIC)
        return fail(why, ERR_PROTOCOL,
                    "fabric ucx: rank %d has an address of another transport; give all workers the same --fabric", rank);
    memset(copy + offsetof(struct link_address, check), 0, sizeof out->check);
    if (out->check != hash_bytes(copy, bytes))
        return fail(why, ERR_CORRUPT, "fabric ucx: the address of rank %d is damaged", rank);
    if (out->rank != (uint32_t)rank)
        return fail(why, ERR_PROTOCOL, "fabric ucx: the address of rank %d is that of rank %u", rank, out->rank);
    return 0;
}

static uint64_t prove(const struct link_header *h, const struct proof_key *key) {
    _Static_assert(offsetof(struct link_header, proof) == 0 && sizeof *h == 64, "all of it is proven, and there are no gaps");
    return proof_of(key, (const unsigned char *)h + sizeof h->proof, sizeof *h - sizeof h->proof);
}

void link_header_seal(struct link_header *h, const struct proof_key *key) { h->proof = prove(h, key); }

bool link_header_open(const void *header, size_t bytes, const struct proof_key *own, int rank, int size,
                      struct link_header *out) {
    if (bytes != sizeof *out) return false;
    memcpy(out, header, sizeof *out);
    return out->proof == prove(out, own) && out->rank < size && out->rank != rank;
}
