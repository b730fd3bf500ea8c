/* key.h - the cluster key: who may listen, join and ask. A text file, made once by `cadre keygen` and carried by the operator
 * to every host; the same in short, without the right to join, is what clients are given.
 *
 * Pairs are CURVE keys (RFC 26, CurveZMQ) in Z85 (RFC 32), as libzmq makes them. The coordinator proves itself by its pair; a
 * worker or a client by its own, and each is let in at one door only (bus.h). An operator comes in where clients do, and is
 * known there by a pair that they do not have.
 *
 *   cadre-key 1                        the first line
 *   coordinator-public Z85             all files
 *   coordinator-secret Z85             not in a client's
 *   worker-public Z85, worker-secret Z85             not in a client's
 *   operator-public Z85, operator-secret Z85         not in a client's
 *   client-public Z85, client-secret Z85             all files
 *
 * Empty lines and those that begin with '#' are skipped. Any thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { KEY_BYTES = 32, KEY_TEXT = 41 /* Z85 of it, and a NUL */ };

struct key_pair {
    char open[KEY_TEXT], secret[KEY_TEXT]; /* "": this file does not say */
};
struct key {
    struct key_pair coordinator, worker, operators, client;
};

/* Four new pairs. ERR_UNSUPPORTED when this libzmq has no CURVE. */
int key_make(struct key *out, struct why *why);
/* A new file that only its owner may read; ERR_EXISTS rather than over another. for_clients: without the right to join. */
int key_write(const struct key *k, bool for_clients, const char *path, struct why *why);
/* ERR_DENIED when others than its owner may read it, ERR_INVALID when it is no such file: the line is named, never what is in
 * it. */
int key_read(const char *path, struct key *out, struct why *why);
/* What all workers have and nobody else: KEY_BYTES. ERR_DENIED when this is a client's key. */
int key_worker_secret(const struct key *k, uint8_t *out, struct why *why);
