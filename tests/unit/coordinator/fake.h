/* fake.h - a coordinator on its own thread, between workers and clients that the test plays itself, all in one process.
 *
 * Workers speak the real control protocol and obey plans, but compute nothing: the token at position p of any sequence is
 * 10 + p % 80. They can be told to misbehave. Clients speak frames. fake_run turns the crank until a condition holds; it fails
 * the test after a generous deadline, so nothing here depends on how fast the machine is. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "coordinator/coordinator.h"

enum { FAKE_WORKERS = 3, FAKE_CALLS = 80, FAKE_TOKENS = 256 };

struct fake_call {
    uint8_t id[16];
    bool events; /* of the method Events: text has their kinds, each in front of a blank */
    bool started, finished, ended;
    int status;
    char message[512], reason[16], text[1024];
    uint64_t request, seed;
    bool resumable; /* as the server sees it */
    int tokens[FAKE_TOKENS], n_tokens, data_frames, prompt_tokens;
};
struct fake_ask {     /* a Generate */
    int prompt;       /* ids 1 .. prompt */
    const char *text; /* or this */
    int max_tokens;   /* < 0: not given */
    uint32_t credits; /* 0: plenty */
    uint64_t timeout_ms;
    const char *stop;
    int32_t stop_id; /* 0: none */
    float temperature;
    bool resumable;
    uint32_t logprobs;
    const uint8_t *id; /* [16] said again; NULL: a new one */
};

struct fake;
struct fake *fake_new(const struct coordinator_options *o); /* fails the test when the coordinator cannot be made */
void fake_free(struct fake *f);                             /* ends the coordinator now */
void fake_join(struct fake *f, int rank);                   /* Hello; from then on it does what it is told */
/* The same of one that outlived another coordinator, by which it was in that epoch, with those members; 0: in none yet. */
void fake_rejoin(struct fake *f, int rank, uint32_t epoch, uint64_t members);
void fake_join_all(struct fake *f);                         /* and waits until all are ready */
/* What a worker does wrong; set before or after it joined. */
struct fake_faults {
    const char *numeric_class;
    uint64_t fingerprint_off;
    int size_off;
    bool silent, hold; /* says nothing at all; beats, but answers no plan */
    bool stuck;        /* with hold: beats as busy, without progress */
    bool unmoved;      /* its mover */
    bool wrong_token, no_token, wrong_rows;
    bool slow;  /* prepares no epoch */
    bool loads; /* for ever: beats, but says neither Progress nor Ready */
};
struct fake_faults *fake_faults(struct fake *f, int rank);
void fake_trouble(struct fake *f, int rank, const char *reason, uint64_t late, uint32_t call); /* call: of step 1 */
void fake_crash(struct fake *f, int rank); /* its connection closes */
bool fake_refused(struct fake *f, int rank, char *reason, size_t cap);
bool fake_told_to_leave(struct fake *f, int rank, bool *abort);
int fake_steps(struct fake *f, int rank);   /* plans seen */
int fake_dropped(struct fake *f, int rank); /* sequences it was told to forget */
int fake_beats(struct fake *f, int rank);
int fake_held(struct fake *f, int rank); /* sequences it holds */
uint32_t fake_epoch(struct fake *f, int rank);   /* that has begun for it */
uint32_t fake_told_of(struct fake *f, int rank); /* the latest it was told to prepare, or welcomed to */

struct fake_call *fake_open(struct fake *f, const char *method, const void *payload, size_t len, uint32_t credits,
                            uint64_t timeout_ms);
struct fake_call *fake_generate(struct fake *f, const struct fake_ask *a);
/* Goes on with what `had` has of the answer to the Generate `id`: a copy of it, fed by a new call. */
struct fake_call *fake_resume(struct fake *f, const uint8_t id[16], const struct fake_call *had);
void fake_reconnect(struct fake *f); /* the clients' connection breaks; a new one */
void fake_credit(struct fake *f, struct fake_call *c, uint32_t more);
void fake_cancel(struct fake *f, struct fake_call *c);
/* A Status, answered. */
struct fake_status {
    char state[16], reason[512], journal_fault[512]; /* "" without a journal too */
    int waiting, running, pages_used;
    int health; /* enum health_level */
    char part[64];
    uint64_t finished, cancelled, expired, failed;
};
struct fake_status fake_status(struct fake *f);

#define fake_run(f, condition)                                                                                                 \
    do {                                                                                                                       \
        int64_t fake_until = fake_deadline();                                                                                  \
        while (!(condition)) {                                                                                                 \
            ck_assert_msg(fake_turn(f, fake_until), "never became true: %s", #condition);                                      \
        }                                                                                                                      \
    } while (0)
int64_t fake_deadline(void);
bool fake_turn(struct fake *f, int64_t until_us); /* one turn of the crank; false: the deadline has passed */
/* Has coordinator_run returned? Then its result. */
bool fake_over(struct fake *f, int *result, struct why *why);
void fake_stop(struct fake *f, bool drain);
