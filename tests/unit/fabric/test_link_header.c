/* test_link_header.c - who is believed by what stands in a message: vectors of the code, and what each part of the proof is
 * for. */
#include <string.h>

#include "fabric/fabric.h"
#include "fabric/link_header.h"

#include "tests/unit/run.h"

enum { SIZE = 4 };
static const struct guard_sources sources = {.n = 2, .from = {1, 2}};
static const uint8_t secret[PROOF_SECRET_BYTES] = {1, 2, 3}, another[PROOF_SECRET_BYTES] = {1, 2, 4};

static struct proof_key key_of(const uint8_t *by, int rank, uint64_t nonce, uint8_t ucx) {
    unsigned char address[FABRIC_ADDRESS_BYTES], own[100] = {ucx};
    return proof_key(by, address, link_address_write(address, rank, nonce, &sources, own, sizeof own));
}

static struct link_header message(void) {
    return (struct link_header){.nonce = 77, .incarnation = 5, .rank = 1, .session = 2, .you = 3, .number = 4, .total = 640};
}

static bool opens(const struct link_header *h, const struct proof_key *own) {
    struct link_header in;
    bool yes = link_header_open(h, sizeof *h, own, 0, SIZE, &in);
    if (yes) ck_assert_mem_eq(h, &in, sizeof in);
    return yes;
}

START_TEST(vector) { /* of SipHash's authors: key 00..0f, message 00..0e */
    struct proof_key k;
    uint8_t m[15];
    for (size_t i = 0; i < sizeof k.bytes; i++) k.bytes[i] = (uint8_t)i;
    for (size_t i = 0; i < sizeof m; i++) m[i] = (uint8_t)i;
    ck_assert_uint_eq(proof_of(&k, m, sizeof m), 0xa129ca6149be45e5u);
}
END_TEST

START_TEST(only_with_the_secret_and_to_this_process) {
    struct proof_key own = key_of(secret, 0, 9, 1);
    struct proof_key wrong[] = {key_of(NULL, 0, 9, 1), key_of(another, 0, 9, 1), key_of(secret, 0, 10, 1),
                                key_of(secret, 3, 9, 1), key_of(secret, 0, 9, 2)};
    struct link_header h = message();
    ck_assert(!opens(&h, &own));
    link_header_seal(&h, &own);
    ck_assert(opens(&h, &own));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        link_header_seal(&h, &wrong[i]);
        ck_assert_msg(!opens(&h, &own), "key %zu", i);
    }
}
END_TEST

START_TEST(every_bit_is_proven) {
    struct proof_key own = key_of(secret, 0, 9, 1);
    struct link_header h = message();
    link_header_seal(&h, &own);
    for (size_t bit = 0; bit < 8 * sizeof h; bit++) {
        ((unsigned char *)&h)[bit / 8] ^= (unsigned char)(1 << bit % 8);
        ck_assert_msg(!opens(&h, &own), "bit %zu", bit);
        ((unsigned char *)&h)[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    ck_assert(opens(&h, &own));
}
END_TEST

START_TEST(ranks_there_are) {
    struct proof_key own = key_of(secret, 0, 9, 1);
    struct link_header h = message(), in;
    for (int rank = 0; rank <= UINT16_MAX; rank++) {
        h.rank = (uint16_t)rank;
        link_header_seal(&h, &own);
        ck_assert(opens(&h, &own) == (rank > 0 && rank < SIZE));
    }
    h = message();
    link_header_seal(&h, &own);
    for (size_t bytes = 0; bytes < sizeof h; bytes++) ck_assert(!link_header_open(&h, bytes, &own, 0, SIZE, &in));
}
END_TEST

START_TEST(addresses) {
    unsigned char a[FABRIC_ADDRESS_BYTES], own[FABRIC_ADDRESS_BYTES] = {3};
    struct link_address read;
    struct why why;
    size_t n = link_address_write(a, 1, 77, &sources, own, 100);
    ck_assert_int_eq(link_address_read(a, n, 1, &read, &why), 0);
    ck_assert_uint_eq(read.nonce, 77);
    ck_assert_int_eq(link_address_read(a, n, 2, &read, &why), ERR_PROTOCOL);
    ck_assert_int_eq(link_address_read(a, sizeof read, 1, &read, &why), ERR_PROTOCOL);
    ck_assert_int_eq(link_address_read(a, sizeof a + 1, 1, &read, &why), ERR_PROTOCOL);
    ck_assert_uint_eq(link_address_write(a, 1, 77, &sources, own, sizeof own), 0); /* too long for an address */
}
END_TEST

int main(void) {
    Suite *s = suite_create("link_header");
    TCase *t = tcase_create("link_header");
    tcase_add_test(t, vector);
    tcase_add_test(t, only_with_the_secret_and_to_this_process);
    tcase_add_test(t, every_bit_is_proven);
    tcase_add_test(t, ranks_there_are);
    tcase_add_test(t, addresses);
    suite_add_tcase(s, t);
    return run_suite(s);
}
