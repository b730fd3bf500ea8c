/* telemetry.h - what the workers counted: rows per expert and worker, waits, time in steps, and token rates over a window.
 * Counts come only from reports of where rows were executed; nothing here is inferred from plans. Pure. */
#pragma once
#include "coordinator/msg.h"
#include "router/placement.h"

enum { TELEMETRY_WINDOW = 10 }; /* seconds */

struct telemetry_second {
    int64_t second; /* which one, of the monotonic clock */
    uint64_t prompt, tokens;
};
struct telemetry {
    const struct placement *placement; /* borrowed */
    uint64_t *rows;                    /* [layers * experts] since start */
    uint64_t tokens;                   /* rows that homes ran: each went through every layer */
    uint64_t worker_rows[MSG_MAX_WORKERS], wait_us[MSG_MAX_WORKERS], busy_us[MSG_MAX_WORKERS];
    uint64_t part_us[MSG_MAX_WORKERS][PARTS];
    struct telemetry_second window[TELEMETRY_WINDOW + 1];
    double row_us; /* time of a step per row of its fullest worker, smoothed; 0 = unknown */
};

int telemetry_init(struct telemetry *t, const struct placement *p);
void telemetry_clear(struct telemetry *t);
struct telemetry_of_step { /* what the plan says of it */
    int rows;              /* of its fullest worker */
    bool goes_on;          /* with sequences of a step before: the time between them is the scheduler's, not idleness */
};
/* Adds a worker's report of a step. ERR_PROTOCOL when the counts do not fit the placement. */
int telemetry_step(struct telemetry *t, int worker, const struct worker_step_done *d, const struct telemetry_of_step *step,
                   struct why *why);
/* The time alone, of a step that is not to be counted. */
void telemetry_pace(struct telemetry *t, uint64_t step_us, int step_rows);
void telemetry_tokens(struct telemetry *t, int64_t now_us, uint64_t prompt, uint64_t tokens);
void telemetry_rate(const struct telemetry *t, int64_t now_us, double *prompt_per_s, double *tokens_per_s);
/* How long a worker shall wait for a peer inside a step of that many rows: ten times what it should take, at least min_us. */
int64_t telemetry_patience(const struct telemetry *t, int step_rows, int64_t min_us);
