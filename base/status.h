/* status.h - every error Cadre's own functions return, and the words that explain one to a person.
 *
 * Results are int: >= 0 is good, negative is one of the codes below. A code's scope is the largest thing that broke,
 * so the code implies the recovery: REQUEST is refused, SEQUENCE is ended, PEER asks for a new epoch, PROCESS exits.
 *
 * Code that can fail for a reason a person must read takes a `struct why *` (never NULL) and fills it with one line:
 * what was wrong, where, what was expected, what to do. Whoever can act on it logs it, sends it, or dies with it. */
#pragma once
#include <stddef.h>

#define STATUS_TABLE(X)                                                   \
    /* code       scope     message */                                    \
    X(INVALID,    REQUEST,  "invalid argument")                           \
    X(UNSUPPORTED,REQUEST,  "not supported")                              \
    X(TOO_LARGE,  REQUEST,  "too large")                                  \
    X(NOT_FOUND,  REQUEST,  "not found")                                  \
    X(EXISTS,     REQUEST,  "already there")                              \
    X(EXHAUSTED,  REQUEST,  "out of capacity")                            \
    X(AGAIN,      REQUEST,  "would block, try again")                     \
    X(DENIED,     REQUEST,  "not allowed")                                \
    X(CANCELLED,  SEQUENCE, "cancelled")                                  \
    X(DEADLINE,   SEQUENCE, "deadline exceeded")                          \
    X(LATE,       PEER,     "a peer is late")                             \
    X(EPOCH,      PEER,     "the epoch changed")                          \
    X(GONE,       PEER,     "peer gone")                                  \
    X(PROTOCOL,   PEER,     "protocol violated")                          \
    X(CORRUPT,    PROCESS,  "data corrupt")                               \
    X(IO,         PROCESS,  "input/output failed")                        \
    X(NOMEM,      PROCESS,  "out of memory")

enum scope { SCOPE_REQUEST, SCOPE_SEQUENCE, SCOPE_PEER, SCOPE_PROCESS };

enum {
    STATUS_FIRST = -1000, /* codes count up from here */
#define X(code, scope, text) ERR_##code,
    STATUS_TABLE(X)
#undef X
    STATUS_END
};

struct why {
    char text[512];
};

const char *status_name(int code);        /* "INVALID"; "OK" for >= 0 */
const char *status_text(int code);        /* the message of the table */
enum scope status_scope(int code);

/* Fills why (cutting what does not fit) and returns code, so that a refusal is one line at its place. */
int fail(struct why *why, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "fmt: " before what why already says: context added on the way up. Returns code. */
int fail_in(struct why *why, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
