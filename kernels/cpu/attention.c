/* attention.c - splits a batch's attention into blocks of rows of one sequence by key/value heads.
 *
 * Neighbouring rows of one sequence (a prefill chunk) share the loads of keys and values, as do the query heads of a group;
 * a decode row is a block of its own. A block never affects a result: see vec_attend.c. */
#include "base/log.h"
#include "kernels/cpu/cpu.h"

struct attention_job {
    const struct vec *vec;
    const struct kv_layer *kv;
    const struct attention *a;
    const int32_t *first_row; /* [blocks + 1] */
    int parts, heads;         /* a group's query heads are taken in `parts` of `heads` (the last may have fewer) */
    char *thread_scratch;
    struct team *team;
};

static void owner_between(void *team) { team_between(team, 0); }
static void others_between(void *team) { (void)team; }

static void attention_task(void *arg, int task, int thread) {
    const struct attention_job *j = arg;
    int per_group = j->a->q_heads / j->kv->heads;
    int part = task % j->parts, g = task / j->parts % j->kv->heads, block = task / j->parts / j->kv->heads;
    struct attend at = {.kv = j->kv, .a = j->a, .g = g, .first_row = j->first_row[block],
                        .rows = j->first_row[block + 1] - j->first_row[block], .first_head = g * per_group + part * j->heads,
                        .heads = imin(j->heads, per_group - part * j->heads),
                        .scratch = (float *)(j->thread_scratch + (size_t)thread * CPU_THREAD_BYTES),
                        .between = thread ? others_between : owner_between, .ctx = j->team};
    j->vec->attend(&at);
}

/* Cuts rows [from, a->tokens) into blocks of neighbours of one sequence, at most `rows` each, while `room` lasts; returns the
 * number of blocks, and in *end the first row that found no room. */
static int cut_blocks(const struct attention *a, int from, int rows, int32_t *first_row, int room, int *end) {
    int n = 0, t = from;
    while (t < a->tokens && n < room) {
        int start = t++;
        while (t < a->tokens && t - start < rows && a->seq[t] == a->seq[start]) t++;
        first_row[n++] = start;
    }
    first_row[n] = t;
    *end = t;
    return n;
}

void cpu_attention(struct backend *b, const struct kv_layer *kv, const struct attention *a) {
    struct cpu *c = cpu_of(b);
    if (attend_scratch(kv->head_dim) * sizeof(float) > CPU_THREAD_BYTES) BUG("attention heads of %d: too wide", kv->head_dim);
    int per_group = a->q_heads / kv->heads, heads = imin(per_group, ATTEND_QUERIES), rows = ATTEND_QUERIES / heads;
    int room = CPU_SCRATCH_BYTES / (int)sizeof(int32_t) - 1;
    struct attention_job j = {.vec = c->vec, .kv = kv, .a = a, .first_row = (int32_t *)c->scratch,
                              .parts = (per_group + heads - 1) / heads, .heads = heads, .thread_scratch = c->thread_scratch,
                              .team = c->team};
    for (int from = 0, end; from < a->tokens; from = end) {
        int blocks = cut_blocks(a, from, rows, (int32_t *)c->scratch, room, &end);
        team_run(c->team, attention_task, &j, blocks * kv->heads * j.parts);
    }
}
