/* fuzz_greeting.c - what UCX handles say to each other, from somebody who knows an address but not the secret.
 *
 * An input is a byte and a message: even, the header of a message; odd, an address. Nothing that was not sealed under the
 * receiver's key is let in, whatever is asked of the proof itself, and a header that is sealed holds what it held. */
#include <string.h>

#include "fabric/fabric.h"
#include "fabric/link_header.h"
#include "tests/fuzz/fuzz.h"

enum { RANK = 2, SIZE = 5, UCX_BYTES = 200 };

static const uint8_t secret[PROOF_SECRET_BYTES] = "what only the cluster's own know";

static size_t write_address(uint8_t *out, int rank, uint64_t nonce) {
    uint8_t ucx[UCX_BYTES];
    memset(ucx, 0x5a, sizeof ucx);
    return link_address_write(out, rank, nonce, &(struct guard_sources){.n = 1}, ucx, sizeof ucx);
}

static struct proof_key own_key(const uint8_t *by) {
    uint8_t address[FABRIC_ADDRESS_BYTES];
    return proof_key(by, address, write_address(address, RANK, 42));
}

static void read_header(const uint8_t *data, size_t size) {
    struct proof_key own = own_key(secret), guess = own_key(NULL);
    struct link_header h, in;
    FUZZ_CHECK(!link_header_open(data, size, &own, RANK, SIZE, &in));
    if (size != sizeof h) return;
    memcpy(&h, data, sizeof h);
    link_header_seal(&h, &guess);
    FUZZ_CHECK(!link_header_open(&h, sizeof h, &own, RANK, SIZE, &in));
    link_header_seal(&h, &own);
    bool possible = h.rank < SIZE && h.rank != RANK;
    FUZZ_CHECK(link_header_open(&h, sizeof h, &own, RANK, SIZE, &in) == possible);
    FUZZ_CHECK(!possible || !memcmp(&h, &in, sizeof h));
    ((uint8_t *)&h)[sizeof h.proof + data[0] % (sizeof h - sizeof h.proof)] ^= 1;
    FUZZ_CHECK(!link_header_open(&h, sizeof h, &own, RANK, SIZE, &in));
}

static void read_address(const uint8_t *data, size_t size) {
    struct link_address a;
    struct why why;
    int rc = link_address_read(data, size, RANK, &a, &why);
    FUZZ_CHECK(rc == 0 || why.text[0]);
    FUZZ_CHECK(rc < 0 || (size > sizeof a && size <= FABRIC_ADDRESS_BYTES && a.rank == RANK));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    if (data[0] & 1) read_address(data + 1, size - 1);
    else read_header(data + 1, size - 1);
    return 0;
}

void fuzz_seeds(fuzz_add add) {
    uint8_t b[1 + FABRIC_ADDRESS_BYTES] = {0};
    struct link_header h = {.nonce = 7, .incarnation = 3, .rank = 1, .session = 1, .you = 1, .total = 64, .given = 2};
    add(b, 1 + sizeof h);
    memcpy(b + 1, &h, sizeof h);
    add(b, 1 + sizeof h);
    h = (struct link_header){.nonce = 7, .incarnation = 3, .rank = 4, .flags = 3, .session = 2, .number = 9, .offset = 65024};
    memcpy(b + 1, &h, sizeof h);
    add(b, 1 + sizeof h);
    b[0] = 1;
    add(b, 1 + write_address(b + 1, RANK, 42));
    add(b, 1 + write_address(b + 1, RANK + 1, 43));
}
