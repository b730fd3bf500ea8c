/* proof.h - what shows that a message comes from somebody who has the cluster's secret.
 *
 * Whoever listens has a key of its own: a keyed hash (BLAKE2b, RFC 7693) of its address under the secret. The address holds a
 * number drawn for this process alone, so keys are never used twice; that number is the challenge, and a code (SipHash-2-4,
 * https://www.aumasson.jp/siphash/siphash.pdf) over a message under this key is the answer. Nothing is hidden: the secret
 * never travels, what it vouches for does so in the open. Any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { PROOF_SECRET_BYTES = 32, PROOF_KEY_BYTES = 16 };

struct proof_key {
    uint8_t bytes[PROOF_KEY_BYTES];
};

/* secret NULL: none, so that whoever knows the address can make proofs. */
struct proof_key proof_key(const uint8_t *secret, const void *address, size_t bytes);
uint64_t proof_of(const struct proof_key *k, const void *message, size_t bytes);
