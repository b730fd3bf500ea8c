/* link_header.h - what stands on the wire between UCX handles, and what is believed of it: addresses, which the coordinator
 * hands on, and the header of every message, which comes from the network and so is input. Pure; any thread. */
#pragma once
#include <stdbool.h>

#include "base/status.h"
#include "fabric/guard.h"
#include "fabric/proof.h"

struct link_address { /* what fabric_address gives; followed by UCX's own address of the worker */
    uint32_t magic, rank;
    uint64_t nonce; /* drawn at open */
    uint64_t check; /* over all of it with check = 0: UCX trusts what it is given */
    struct guard_sources sources; /* where its connections may come from */
    uint32_t unused; /* 0; there are no gaps that check would have to skip */
};

struct link_header {        /* of every message; in the sender's byte order: one cluster runs one kind of CPU */
    uint64_t proof;         /* of the rest, under the key of whom it is for: nobody else's messages get in */
    uint64_t nonce;         /* the sender's */
    uint32_t incarnation;   /* the sender's: tells lives of one rank apart */
    uint16_t rank, flags;   /* the sender's rank */
    uint32_t session, you;  /* the sender's session; the receiver's, 0 = not known yet */
    uint64_t number;        /* of a frame: its place in the stream, from 0 */
    uint64_t total, offset; /* of a frame: its size, and where in it this part of it begins */
    uint64_t given;         /* frames of the other direction that were given back */
};

/* Writes an address; out has FABRIC_ADDRESS_BYTES. Returns its size, 0 when UCX's own is too long. */
size_t link_address_write(void *out, int rank, uint64_t nonce, const struct guard_sources *sources, const void *ucx,
                          size_t ucx_bytes);
/* ERR_PROTOCOL or ERR_CORRUPT when it is not a whole address of this rank. UCX's own begins after sizeof *out. */
int link_address_read(const void *address, size_t bytes, int rank, struct link_address *out, struct why *why);

/* key: of the receiver. */
void link_header_seal(struct link_header *h, const struct proof_key *key);
/* Takes a message's header that came in; own: the key of this rank. Whether it is one, proven, and of another rank that there
 * may be; otherwise *out holds nothing to go by. */
bool link_header_open(const void *header, size_t bytes, const struct proof_key *own, int rank, int size,
                      struct link_header *out);
