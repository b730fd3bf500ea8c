/* step_rows.h - the rows of one step, filled by the engine from the plan. All arrays are host-visible.
 *
 * The rows of a sequence are adjacent and in ascending order of position, so a walk over t meets a position only after every
 * earlier one of its sequence that this step runs. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct route_state;

struct step_rows {
    int T, n_seqs, n_sampled;
    int32_t *ids, *pos, *seq; /* [T] token, position, index into pages */
    int32_t *kv_at;           /* [T] page * page_tokens + offset */
    uint64_t *seq_id;         /* [T] */
    uint16_t *domain;         /* [T] of the request's tag, 0 = untagged: recorded and counted, of no effect */
    int32_t *pages;           /* [n_seqs, max_pages] */
    int max_pages;
    const struct route_state *state; /* what routers remember beside the pages */
    bool *prompt;             /* [T] its token was given, not generated */
    int32_t *sampled;         /* [n_sampled] rows whose logits are wanted */
};
