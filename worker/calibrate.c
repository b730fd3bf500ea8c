/* calibrate.c - a solo worker whose operations are listened to, and moments of what they were given. */
#include "worker/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "worker/moments.h"
#include "worker/solo.h"

enum {
    CHUNK = 128,
    LEAST_ROWS = 64,    /* of an expert that fewer came to, each weight is rounded for itself */
    MOST_COLS = 1 << 13 /* of a matrix: the moments of more would not fit anywhere */
};

static const float DAMPING = 0.01f, DAMPING_EMBED = 0.1f; /* its rows are looked up too, where every error counts alike */

/* Where rows enter; FROM_HIDDEN is computed from FROM_FFN. */
enum from { FROM_NONE, FROM_ATTENTION, FROM_HEADS, FROM_LATENT, FROM_FFN, FROM_OUTPUT, FROM_HIDDEN, FROMS };

struct rows { /* bf16 [n, width] */
    uint16_t *x;
    int width, n;
};
struct layer_rows {
    struct rows of[FROMS];
    int16_t *chosen; /* [tokens, k] experts of the n of FROM_FFN; NULL: not known, or dense */
    int n_chosen;
    struct share {
        double weight, length; /* sums over the tokens that chose it: of weights, of lengths of what it gave */
        uint64_t rows;
    } * share; /* [E]; NULL where chosen is */
};

struct calibration {
    struct solo solo;
    const struct ops *real;
    struct ops ops; /* ours: they note and pass on. The backend points here, which is how they find the rest */
    struct rounding rounding;
    struct pruning pruning;
    int16_t *kept;
    int32_t *kept_neurons;
    struct layer_rows *layer; /* [L + 1]: the last one's is what enters the output's matrix */
    int tokens;               /* there will be */
    int routing;              /* layer whose router was computed last */
    bool no_memory;
    /* the factor made last: neighbours ask for the same */
    float *u;
    enum from u_from;
    int u_layer, u_expert;
    bool u_good;
};

static struct calibration *of(struct backend *b) {
    return (struct calibration *)((char *)(uintptr_t)b->ops - offsetof(struct calibration, ops));
}

/* ---- listening ---- */

static void note_rows(struct calibration *c, struct rows *r, const float *x, int T, int width) {
    if (!r->x) {
        r->x = malloc(sizeof *r->x * (size_t)c->tokens * (size_t)width);
        r->width = width;
    }
    if (!r->x || r->n + T > c->tokens) {
        c->no_memory |= !r->x;
        return;
    }
    uint16_t *to = r->x + (size_t)r->n * (size_t)width;
    for (size_t i = 0; i < (size_t)T * (size_t)width; i++) to[i] = bf16_from_f32(x[i]);
    r->n += T;
}

static void listen_linear(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T) {
    struct calibration *c = of(b);
    for (int i = 0; i < c->solo.checkpoint.config.layers; i++) {
        const struct layer_weights *l = &c->solo.weights.layer[i];
        const void *first = l->q_a.data ? l->q_a.data : l->q.data; /* of those that are given the same */
        const enum from from = w.data == first            ? FROM_ATTENTION
                               : w.data == l->o.data      ? FROM_HEADS
                               : w.data == l->q_b.data    ? FROM_LATENT
                               : w.data == l->router.data ? FROM_FFN
                                                          : FROM_NONE;
        if (!w.data || from == FROM_NONE) continue;
        if (from == FROM_FFN) c->routing = i;
        note_rows(c, &c->layer[i].of[from], x, T, w.cols);
    }
    const int layers = c->solo.checkpoint.config.layers;
    if (w.data == c->solo.weights.lm_head.data) note_rows(c, &c->layer[layers].of[FROM_OUTPUT], x, T, w.cols);
    c->real->linear(b, y, x, w, bias, add, T);
}

/* What an expert of the layer at hand gave; with what it shares with others, where it does. */
static void note_lengths(struct calibration *c, const struct ffn_group *g, const float *y, int H) {
    const struct expert_store *s = &c->solo.store;
    const struct layer_rows *l = &c->layer[c->routing];
    const int layer = c->solo.checkpoint.config.moe_index[c->routing];
    if (!l->share || layer < 0) return;
    for (int slot = s->first[layer]; slot < s->first[layer + 1]; slot++) {
        if (g->weights != &s->slots[slot].ffn) continue;
        struct share *to = &l->share[s->slots[slot].blob.header.expert];
        for (int i = g->first; i < g->first + g->count; i++) {
            double sum = 0;
            for (int k = 0; k < H; k++)
                sum += (double)y[(size_t)i * (size_t)H + (size_t)k] * (double)y[(size_t)i * (size_t)H + (size_t)k];
            to->length += sqrt(sum);
        }
        to->rows += (uint64_t)g->count;
        return;
    }
}

static void listen_ffn(struct backend *b, float *y, const float *x, const struct ffn_group *groups, int n_groups, int H) {
    struct calibration *c = of(b);
    for (int i = 0; n_groups == 1 && i < c->solo.checkpoint.config.layers; i++)
        if (groups->weights == &c->solo.weights.layer[i].dense)
            note_rows(c, &c->layer[i].of[FROM_FFN], x + (size_t)groups->first * (size_t)H, groups->count, H);
    c->real->ffn(b, y, x, groups, n_groups, H);
    for (int g = 0; g < n_groups; g++) note_lengths(c, &groups[g], y, H);
}

static void listen_gate(struct backend *b, int32_t *ids, float *weights, const float *logits, const float *bias,
                        const struct gate_rule *rule, int T) {
    struct calibration *c = of(b);
    struct layer_rows *l = &c->layer[c->routing];
    c->real->gate_select(b, ids, weights, logits, bias, rule, T);
    if (rule != &c->solo.checkpoint.config.gate || l->n_chosen + T > c->tokens) return; /* of several stages: not followed */
    if (!l->chosen) l->chosen = malloc(sizeof *l->chosen * (size_t)c->tokens * (size_t)rule->k);
    c->no_memory |= !l->chosen;
    if (!l->share) l->share = calloc((size_t)rule->experts, sizeof *l->share);
    c->no_memory |= !l->share;
    for (int i = 0; l->chosen && l->share && i < T * rule->k; i++) {
        l->chosen[(size_t)l->n_chosen * (size_t)rule->k + (size_t)i] = (int16_t)ids[i];
        if (ids[i] >= 0 && ids[i] < rule->experts) l->share[ids[i]].weight += (double)weights[i];
    }
    l->n_chosen += T;
}

/* ---- moments ---- */

static enum from from_of(enum tensor_role role) {
    switch (role) {
    case T_Q:
    case T_K:
    case T_V:
    case T_Q_A:
    case T_KV_A: return FROM_ATTENTION;
    case T_O: return FROM_HEADS;
    case T_Q_B: return FROM_LATENT;
    case T_DENSE_GATE:
    case T_DENSE_UP:
    case T_SHARED_GATE:
    case T_SHARED_UP:
    case T_EXPERT_GATE:
    case T_EXPERT_UP: return FROM_FFN;
    case T_DENSE_DOWN:
    case T_SHARED_DOWN:
    case T_EXPERT_DOWN: return FROM_HIDDEN;
    case T_EMBED: /* where it is the output's matrix too */
    case T_LM_HEAD: return FROM_OUTPUT;
    default: return FROM_NONE;
    }
}

static bool goes_to(const struct calibration *c, const struct layer_rows *l, int row, int expert) {
    const int k = c->solo.checkpoint.config.gate.k;
    if (expert < 0 || l->n_chosen != l->of[FROM_FFN].n) return true;
    for (int i = 0; i < k; i++)
        if (l->chosen[(size_t)row * (size_t)k + (size_t)i] == expert) return true;
    return false;
}

/* Whether all of a layer's rows are that expert's, as where every expert is always active. */
static bool all_go_to(const struct calibration *c, int layer, int expert) {
    const struct layer_rows *l = &c->layer[layer];
    for (int i = 0; i < l->of[FROM_FFN].n; i++)
        if (!goes_to(c, l, i, expert)) return false;
    return true;
}

/* Rows of a layer, or those of one expert's tokens, as f32 [n, width]; NULL: fewer than `least`, or no memory. */
static float *pick(const struct calibration *c, int layer, enum from from, int expert, int least, int *n) {
    const struct layer_rows *l = &c->layer[layer];
    const struct rows *r = &l->of[from];
    const size_t width = (size_t)r->width;
    float *x = r->n ? malloc(sizeof *x * (size_t)r->n * width) : NULL;
    *n = 0;
    for (int i = 0; x && i < r->n; i++) {
        if (!goes_to(c, l, i, expert)) continue;
        for (size_t k = 0; k < width; k++) x[(size_t)*n * width + k] = bf16_to_f32(r->x[(size_t)i * width + k]);
        ++*n;
    }
    if (*n >= least) return x;
    free(x);
    return NULL;
}

static float *read_matrix(const struct calibration *c, enum tensor_role role, int layer, int expert, struct mat *m) {
    const struct checkpoint *from = &c->solo.checkpoint;
    struct tensor_want w;
    if (!model_tensor(&from->config, role, layer, expert, &w)) return NULL;
    const int cols = w.cols ? w.cols : 1;
    float *x = malloc(sizeof *x * (size_t)w.rows * (size_t)cols);
    if (!x) return NULL;
    checkpoint_read(from, role, layer, expert, FMT_F32, x);
    *m = (struct mat){.data = x, .fmt = FMT_F32, .rows = w.rows, .cols = cols};
    return x;
}

/* What the last matrix of an FFN is given for x [n, H]: the FFN with rows of the identity for its last matrix, H at a time. */
static float *hidden_of(struct calibration *c, enum tensor_role down, int layer, int expert, const float *x, int n, int H,
                        int *width) {
    const enum tensor_role gate = down - 2, up = down - 1;
    struct backend *b = c->solo.backend;
    struct ffn f = {.act = c->solo.checkpoint.config.act};
    struct mat bias;
    float *g = read_matrix(c, gate, layer, expert, &f.gate), *u = read_matrix(c, up, layer, expert, &f.up);
    float *gb = down == T_EXPERT_DOWN ? read_matrix(c, T_EXPERT_GATE_BIAS, layer, expert, &bias) : NULL;
    float *ub = down == T_EXPERT_DOWN ? read_matrix(c, T_EXPERT_UP_BIAS, layer, expert, &bias) : NULL;
    const int F = *width = g ? f.gate.rows : 0;
    float *unit = calloc((size_t)H * (size_t)F + 1, sizeof *unit), *y = malloc(sizeof *y * (size_t)n * (size_t)H);
    float *out = g && unit && y ? malloc(sizeof *out * (size_t)n * (size_t)F) : NULL;
    f.gate_bias = gb, f.up_bias = ub;
    f.down = (struct mat){.data = unit, .fmt = FMT_F32, .rows = H, .cols = F};
    for (int at = 0; out && at < F; at += H) {
        const int some = F - at < H ? F - at : H;
        for (int i = 0; i < some; i++) unit[(size_t)i * (size_t)F + (size_t)(at + i)] = 1;
        c->real->ffn(b, y, x, &(struct ffn_group){.weights = &f, .count = n}, 1, H);
        for (int i = 0; i < n; i++)
            memcpy(out + (size_t)i * (size_t)F + at, y + (size_t)i * (size_t)H, sizeof *out * (size_t)some);
        for (int i = 0; i < some; i++) unit[(size_t)i * (size_t)F + (size_t)(at + i)] = 0;
    }
    free(g), free(u), free(gb), free(ub), free(unit), free(y);
    return out;
}

/* Sum of x x^T over x [n, width]: a product of x turned with itself. */
static bool sum_moments(struct calibration *c, const float *x, int n, int width, float *h) {
    float *turned = malloc(sizeof *turned * (size_t)n * (size_t)width);
    if (!turned) return false;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < width; k++) turned[(size_t)k * (size_t)n + (size_t)i] = x[(size_t)i * (size_t)width + (size_t)k];
    const struct mat m = {.data = turned, .fmt = FMT_F32, .rows = width, .cols = n};
    c->real->linear(c->solo.backend, h, turned, m, NULL, false, width);
    free(turned);
    return true;
}

/* Of hidden rows those neurons alone that stay, where some are left out. */
static void narrow(const struct calibration *c, int layer, int expert, float *x, int n, int *width) {
    const struct model_config *m = &c->solo.checkpoint.config;
    const int stay = c->pruning.neurons;
    const size_t at = (size_t)m->moe_index[layer] * (size_t)m->gate.experts + (size_t)expert;
    const int32_t *kept = c->pruning.kept_neurons + at * (size_t)stay;
    for (int t = 0; t < n; t++) /* what is read lies at or behind what is written */
        for (int i = 0; i < stay; i++)
            x[(size_t)t * (size_t)stay + (size_t)i] = x[(size_t)t * (size_t)*width + (size_t)kept[i]];
    *width = stay;
}

static bool make_factor(struct calibration *c, enum tensor_role role, enum from from, int layer, int expert) {
    const bool hidden = from == FROM_HIDDEN;
    int n, width = c->layer[layer].of[hidden ? FROM_FFN : from].width;
    float *x = pick(c, layer, hidden ? FROM_FFN : from, expert, LEAST_ROWS, &n);
    if (x && hidden) {
        float *given = x;
        x = hidden_of(c, role, layer, expert < 0 ? 0 : expert, given, n, width, &width);
        free(given);
        if (x && role == T_EXPERT_DOWN && c->pruning.kept_neurons) narrow(c, layer, expert, x, n, &width);
    }
    free(c->u);
    c->u = x && width <= MOST_COLS ? malloc(sizeof *c->u * (size_t)width * (size_t)width) : NULL;
    const float damping = role == T_EMBED ? DAMPING_EMBED : DAMPING;
    bool ok = c->u && sum_moments(c, x, n, width, c->u) && moments_factor(c->u, width, damping);
    free(x);
    return ok;
}

static const float *factor(void *ctx, enum tensor_role role, int layer, int expert) {
    struct calibration *c = ctx;
    const enum from from = from_of(role);
    if (role < T_EXPERT_GATE || role > T_EXPERT_DOWN) expert = -1;
    const struct model_config *m = &c->solo.checkpoint.config;
    if (from == FROM_NONE || layer >= m->layers || (role == T_EMBED && !m->tied_embeddings)) return NULL;
    if (from == FROM_OUTPUT) layer = m->layers;
    if (from == FROM_FFN && all_go_to(c, layer, expert)) expert = -1;
    const bool same = c->u_from == from && c->u_layer == layer && c->u_expert == expert && from != FROM_HIDDEN;
    if (!same) c->u_good = make_factor(c, role, from, layer, expert);
    c->u_from = from, c->u_layer = layer, c->u_expert = expert;
    return c->u_good ? c->u : NULL;
}

/* ---- the whole ---- */

static int read_all(struct calibration *c, const int32_t *ids, int n, int32_t begin,
                    void (*progress)(void *ctx, int done, int all), void *ctx, struct why *why) {
    const int size = c->solo.options.context, before = begin >= 0, room = size - before;
    int32_t *window = malloc(sizeof *window * (size_t)size);
    int rc = window ? 0 : fail(why, ERR_NOMEM, "out of memory");
    for (int at = 0, some; rc >= 0 && at < n; at += some) {
        some = n - at < room ? n - at : room;
        if (before) window[0] = begin;
        memcpy(window + before, ids + at, sizeof *window * (size_t)some);
        for (int first = 0, rows; rc >= 0 && first < some + before; first += rows) {
            rows = some + before - first < CHUNK ? some + before - first : CHUNK;
            rc = solo_chunk(&c->solo, window, first, rows);
            if (rc < 0) fail(why, rc, "the forward pass: %s", status_text(rc));
        }
        if (progress) progress(ctx, at + some, n);
    }
    free(window);
    return rc < 0 ? rc : c->no_memory ? fail(why, ERR_NOMEM, "out of memory for the rows of %d tokens", n) : 0;
}

static uint64_t identity(const struct calibration *c, const int32_t *ids, int n, int32_t begin) {
    const uint64_t of_what[] = {c->solo.checkpoint.fingerprint, (uint64_t)c->solo.options.context, (uint64_t)(begin + 1)};
    const uint64_t sum = XXH3_64bits(ids, sizeof *ids * (size_t)n) ^ XXH3_64bits(of_what, sizeof of_what);
    return sum ? sum : 1;
}

int calibration_new(const char *dir, const struct calibrate_options *o, const int32_t *ids, int n, int32_t begin,
                    void (*progress)(void *ctx, int done, int all), void *ctx, struct calibration **out, struct why *why) {
    const struct solo_options so = {
        .isa = "auto", .threads = o->threads, .weights = FMT_BF16, .max_rows = CHUNK, .context = o->window};
    struct calibration *c = *out = calloc(1, sizeof *c);
    if (!c) return fail(why, ERR_NOMEM, "out of memory");
    int rc = solo_open(&c->solo, dir, &so, why);
    if (rc >= 0 && c->solo.checkpoint.pack)
        rc = fail(why, ERR_INVALID, "%s is a pack, whose weights are rounded already; give the model it was made of", dir);
    if (rc >= 0 && o->window > c->solo.checkpoint.config.max_positions)
        c->solo.options.context = c->solo.checkpoint.config.max_positions;
    for (int i = 0; rc >= 0 && i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->solo.checkpoint.config.vocab)
            rc = fail(why, ERR_INVALID, "the text has token %d, the model has %d", ids[i], c->solo.checkpoint.config.vocab);
    if (rc >= 0) rc = solo_load(&c->solo, why);
    if (rc >= 0) rc = solo_ready(&c->solo, FMT_BF16, why);
    if (rc >= 0 && !(c->layer = calloc((size_t)c->solo.checkpoint.config.layers + 1, sizeof *c->layer)))
        rc = fail(why, ERR_NOMEM, "out of memory");
    if (rc >= 0) {
        c->tokens = n + n / (c->solo.options.context - 1) + 1; /* with what begins each window */
        c->real = c->solo.backend->ops;
        c->ops = *c->real;
        c->ops.linear = listen_linear, c->ops.ffn = listen_ffn, c->ops.gate_select = listen_gate;
        c->solo.backend->ops = &c->ops;
        rc = read_all(c, ids, n, begin, progress, ctx, why);
        c->solo.backend->ops = c->real;
        c->rounding = (struct rounding){.factor = factor, .ctx = c, .identity = identity(c, ids, n, begin)};
    }
    if (rc >= 0) return 0;
    calibration_free(c);
    *out = NULL;
    return rc;
}

void calibration_free(struct calibration *c) {
    if (!c) return;
    for (int i = 0; c->layer && i <= c->solo.checkpoint.config.layers; i++) {
        for (int f = 0; f < FROMS; f++) free(c->layer[i].of[f].x);
        free(c->layer[i].chosen);
        free(c->layer[i].share);
    }
    free(c->layer);
    free(c->kept);
    free(c->kept_neurons);
    free(c->u);
    solo_close(&c->solo);
    free(c);
}

const struct rounding *calibration_rounding(const struct calibration *c) { return &c->rounding; }

/* ---- who stays ---- */

static double worth(const struct share *s) { return s->rows ? s->weight * s->length / (double)s->rows : 0; }

/* The n experts of a layer that gave most, in ascending order; of equal ones those that come first. */
static void keep_best(const struct share *share, int experts, int n, int16_t *kept) {
    for (int e = 0, at = 0; e < experts && at < n; e++) {
        int better = 0;
        for (int o = 0; o < experts; o++)
            better += worth(&share[o]) > worth(&share[e]) || (o < e && worth(&share[o]) == worth(&share[e]));
        if (better < n) kept[at++] = (int16_t)e;
    }
}

int calibration_prune(struct calibration *c, int stay, const struct pruning **out, struct why *why) {
    const struct model_config *m = &c->solo.checkpoint.config;
    free(c->kept);
    c->kept = malloc(sizeof *c->kept * (size_t)m->moe_layers * (size_t)stay);
    if (!c->kept) return fail(why, ERR_NOMEM, "out of memory");
    for (int i = 0; i < m->layers; i++) {
        if (m->moe_index[i] < 0) continue;
        if (!c->layer[i].share) BUG("experts of layer %d were not followed, and pruning_stay let them be left out", i);
        keep_best(c->layer[i].share, m->gate.experts, stay, c->kept + (size_t)m->moe_index[i] * (size_t)stay);
    }
    c->pruning = (struct pruning){.kept = c->kept, .experts = stay};
    *out = &c->pruning;
    return 0;
}

/* What each neuron of an expert gave, [F] into gave; false: no memory, or no tokens. */
static bool weigh_neurons(struct calibration *c, int layer, int expert, double *gave) {
    struct mat m = {0};
    int n, F = 0;
    float *x = pick(c, layer, FROM_FFN, expert, LEAST_ROWS, &n);
    if (!x) x = pick(c, layer, FROM_FFN, -1, 1, &n);
    float *h = x ? hidden_of(c, T_EXPERT_DOWN, layer, expert, x, n, c->layer[layer].of[FROM_FFN].width, &F) : NULL;
    float *down = h ? read_matrix(c, T_EXPERT_DOWN, layer, expert, &m) : NULL;
    for (int i = 0; down && i < F; i++) {
        double sum = 0, square = 0;
        for (int t = 0; t < n; t++) sum += fabs((double)h[(size_t)t * (size_t)F + (size_t)i]);
        for (int r = 0; r < m.rows; r++) {
            const double w = (double)down[(size_t)r * (size_t)F + (size_t)i];
            square += w * w;
        }
        gave[i] = sum / n * sqrt(square);
    }
    free(x), free(h);
    free(down);
    return down != NULL;
}

/* The n that gave most, in ascending order; of equal ones those that come first. */
static void keep_neurons(const double *gave, int F, int n, int32_t *kept) {
    for (int i = 0, at = 0; i < F && at < n; i++) {
        int better = 0;
        for (int o = 0; o < F; o++) better += gave[o] > gave[i] || (o < i && gave[o] == gave[i]);
        if (better < n) kept[at++] = (int32_t)i;
    }
}

int calibration_prune_neurons(struct calibration *c, int stay, const struct pruning **out, struct why *why) {
    const struct model_config *m = &c->solo.checkpoint.config;
    const int F = m->expert_ffn, E = m->gate.experts;
    double *gave = malloc(sizeof *gave * (size_t)F);
    free(c->kept_neurons);
    c->pruning = (struct pruning){0};
    c->u_from = FROM_NONE;
    int32_t *to = c->kept_neurons = malloc(sizeof *to * (size_t)m->moe_layers * (size_t)E * (size_t)stay);
    bool ok = gave && to;
    for (int i = 0; ok && i < m->layers; i++) {
        for (int e = 0; ok && m->moe_index[i] >= 0 && e < E; e++, to += stay) {
            ok = weigh_neurons(c, i, e, gave);
            if (ok) keep_neurons(gave, F, stay, to);
        }
    }
    free(gave);
    if (!ok) return fail(why, ERR_NOMEM, "out of memory for what %d neurons gave", F);
    c->pruning = (struct pruning){.neurons = stay, .kept_neurons = c->kept_neurons};
    *out = &c->pruning;
    return 0;
}
