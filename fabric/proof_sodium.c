/* proof_sodium.c - see proof.h. */
#include "fabric/proof.h"

#include <sodium.h>

#include "base/log.h"

struct proof_key proof_key(const uint8_t *secret, const void *address, size_t bytes) {
    struct proof_key k;
    _Static_assert(sizeof k.bytes == crypto_shorthash_siphash24_KEYBYTES, "a key of SipHash");
    _Static_assert(PROOF_SECRET_BYTES >= crypto_generichash_blake2b_KEYBYTES_MIN, "a key of BLAKE2b");
    if (sodium_init() < 0) BUG("libsodium does not start");
    crypto_generichash_blake2b(k.bytes, sizeof k.bytes, address, bytes, secret, secret ? PROOF_SECRET_BYTES : 0);
    return k;
}

uint64_t proof_of(const struct proof_key *k, const void *message, size_t bytes) {
    uint64_t code;
    _Static_assert(sizeof code == crypto_shorthash_siphash24_BYTES, "a code of SipHash");
    crypto_shorthash_siphash24((unsigned char *)&code, message, bytes, k->bytes);
    return code;
}
