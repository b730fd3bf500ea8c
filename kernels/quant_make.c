/* quant_make.c - the numbers of q8 and q4: sixteen rows side by side, a lane each.
 *
 * Every number depends on one row's group alone, so it does not matter who packs what, or how many at once. Compiled for
 * several instruction sets (kernels/meson.build); lanes never meet and nothing is contracted, so all give the same bits. */
#include "kernels/quant_make.h"

#include <math.h>
#include <string.h>

enum { P = QUANT_PANEL, G = QUANT_GROUP };
#define LEAST 1e-4f /* sums of levels smaller than this are of columns that weigh nothing */

/* The compiler's own vectors: it makes four, two or one register of them. */
typedef float lanes __attribute__((vector_size(64)));
typedef int32_t masks __attribute__((vector_size(64)));
_Static_assert(sizeof(lanes) == P * sizeof(float), "a lane per row");

#define ALL(f)              ((lanes){0} + (f))
#define PICK(mask, yes, no) ((lanes)(((masks)(yes) & (mask)) | ((masks)(no) & ~(mask))))
#define MAX(a, b)           PICK((a) > (b), a, b) /* b where a is NaN */
#define MIN(a, b)           PICK((a) < (b), a, b)
#define TRUNCATED(a)        __builtin_convertvector(__builtin_convertvector(a, masks), lanes)
#define X(g, k)             (*(lanes *)(g)->x[k])

static float rounded_scale(float s) { return bf16_to_f32(bf16_from_f32(s)); }

static void put_codes(struct quant_making *g, int k, const lanes *codes) {
    const masks whole = __builtin_convertvector(*codes, masks);
    for (int r = 0; r < P; r++) g->code[k][r] = (uint8_t)whole[r];
}

/* Nearest bf16 to a 127th of the largest: a code is never off by more than half a step, the last one by a quarter more. */
static void make_q8(struct quant_making *g) {
    lanes most = {0}, finite = {0}, inverse = {0};
    for (int k = 0; k < g->n; k++) {
        const lanes a = MAX(X(g, k), -X(g, k));
        most = MAX(a, most);
        finite += X(g, k) * 0;
    }
    for (int r = 0; r < P; r++) {
        g->scale[r] = finite[r] != 0 ? NAN : most[r] < QUANT_LEAST ? 0 : rounded_scale(most[r] / 127);
        inverse[r] = g->scale[r] > 0 ? 1 / g->scale[r] : 0;
    }
    for (int k = 0; k < g->n; k++) {
        lanes v = X(g, k) * inverse + 128.5f;
        v = MAX(v, ALL(1)); /* NaN too */
        v = MIN(v, ALL(255));
        put_codes(g, k, &v);
    }
    for (int k = g->n; k < G; k++) memset(g->code[k], 128, P);
}

struct line { /* x ~ step * level - low */
    lanes step, low, error;
};

/* Gives every x the nearest level of (x + low) * density, then finds the line that fits these best, by least squares, as
 * columns weigh. In units of a fifteenth of the range, and the range holds 0; `low` can be 15.9 steps at most (z is a byte) and
 * at least 0. sum: of all weighed x. The error lacks the sum of x squared, the same for all lines. */
static void fit(const struct quant_making *g, const lanes *low, float density, const lanes *sum, struct line *f) {
    const lanes sx = *sum, from = *low * density + 0.5f;
    lanes sl = {0}, sll = {0}, sxl = {0};
    float n = 0;
    for (int k = 0; k < g->n; k++) {
        const lanes x = X(g, k);
        const float w = g->weight[k];
        lanes l = x * density + from;
        l = MAX(l, ALL(0));
        l = MIN(l, ALL(15));
        l = TRUNCATED(l);
        n += w;
        sl += w * l;
        sll += w * (l * l);
        sxl += w * (x * l);
    }
    const lanes d = n * sll - sl * sl, some = PICK(d > LEAST, d, ALL(1)), most = PICK(sll > LEAST, sll, ALL(1));
    lanes step = PICK(d > LEAST, (n * sxl - sx * sl) / some, ALL(0)), at = (sx - step * sl) / n;
    step = PICK(at > 0, PICK(sll > LEAST, sxl / most, ALL(1)), step);
    at = MIN(at, ALL(0));
    const masks beyond = -at > 15.9f * step;
    lanes other = MIN((sx - sl) / n, ALL(0));
    other = MAX(other, ALL(-15.9f));
    step = PICK(beyond, ALL(1), step);
    at = PICK(beyond, other, at);
    f->step = step;
    f->low = -at;
    f->error = step * (step * sll + 2 * at * sl) + n * at * at - 2 * (step * sxl + at * sx);
}

/* The line that leaves the least squared error among those found from some densities of levels: sixteen from end to end would
 * be a poor choice, few weights are there. */
static void search(const struct quant_making *g, const lanes *low, struct line *best) {
    static const float densities[] = {1, 0.965f, 1.02f, 1.045f, 1.075f, 1.105f, 1.145f, 1.19f};
    lanes sum = {0};
    for (int k = 0; k < g->n; k++) sum += g->weight[k] * X(g, k);
    for (unsigned i = 0; i < sizeof densities / sizeof *densities; i++) {
        const lanes from = *low - 7.5f * (1 - 1 / densities[i]); /* both ends move in alike */
        struct line f;
        fit(g, &from, densities[i], &sum, &f);
        const masks better = i ? f.error < best->error : f.error == f.error;
        best->error = PICK(better, f.error, best->error);
        best->step = PICK(better, f.step, best->step);
        best->low = PICK(better, f.low, best->low);
    }
}

static void make_q4(struct quant_making *g) {
    lanes low = {0}, high = {0}, finite = {0}, inverse = {0};
    struct line best = {.step = {0}};
    for (int k = 0; k < g->n; k++) {
        low = MIN(X(g, k), low);
        high = MAX(X(g, k), high);
        finite += X(g, k) * 0;
    }
    const lanes unit = high / 15 - low / 15;
    const masks sound = (finite == 0) & (unit > QUANT_LEAST);
    inverse = PICK(sound, 1 / unit, ALL(0));
    low = PICK(sound, -low * inverse, ALL(0));
    for (int k = 0; k < g->n; k++) X(g, k) = PICK(sound, X(g, k) * inverse, ALL(0));
    search(g, &low, &best);
    for (int r = 0; r < P; r++) {
        const float s = sound[r] ? rounded_scale(best.step[r] * unit[r] / 16) : 0;
        const float z = s > 0 ? best.low[r] * unit[r] / s + 0.5f : 0;
        g->scale[r] = finite[r] == 0 ? s : NAN;
        g->zero[r] = (float)(int)(z < 255 ? z : 255);
        inverse[r] = s > 0 ? unit[r] / (16 * s) : 0;
        low[r] = g->zero[r] / 16 + 0.5f;
    }
    for (int k = 0; k < g->n; k++) {
        lanes l = X(g, k) * inverse + low;
        l = MAX(l, ALL(0));
        l = MIN(l, ALL(15));
        put_codes(g, k, &l);
    }
    for (int k = g->n; k < G; k++) memset(g->code[k], 0, P);
}

static void make(struct quant_making *g, enum fmt f) {
    if (f == FMT_Q8) make_q8(g);
    else make_q4(g);
}

struct rounded { /* how a group's numbers become codes, and codes numbers */
    lanes scale, inverse, zero, low;
    float least, most, step; /* codes; numbers between them, in scales */
};

static struct rounded rounded_of(const struct quant_making *g, enum fmt f) {
    struct rounded r = {.least = f == FMT_Q8 ? 1 : 0, .most = f == FMT_Q8 ? 255 : 15, .step = f == FMT_Q8 ? 1 : 16};
    for (int i = 0; i < P; i++) {
        r.scale[i] = g->scale[i];
        r.zero[i] = f == FMT_Q8 ? 128 : g->zero[i];
        r.inverse[i] = g->scale[i] > 0 ? 1 / (r.step * g->scale[i]) : 0;
        r.low[i] = r.zero[i] / r.step + 0.5f;
    }
    return r;
}

/* Column by column, its error out of those after it: of the group at once, of the others when the group is done. */
static void toward(struct quant_making *g, enum fmt f, float (*x)[P], int left, const float *u, int stride) {
    lanes error[G], *at = (lanes *)x;
    float sum = 0;
    for (int k = 0; k < g->n; k++) {
        const float d = u[(size_t)k * (size_t)stride + (size_t)k];
        sum += g->weight[k] = 1 / (d * d);
        X(g, k) = at[k];
    }
    for (int k = 0; k < g->n; k++) g->weight[k] *= (float)g->n / sum;
    make(g, f);
    const struct rounded r = rounded_of(g, f);
    for (int k = 0; k < g->n; k++) {
        const float *row = u + (size_t)k * (size_t)stride;
        lanes l = at[k] * r.inverse + r.low;
        l = MAX(l, ALL(r.least));
        l = MIN(l, ALL(r.most));
        l = TRUNCATED(l);
        put_codes(g, k, &l);
        error[k] = (at[k] - (r.step * l - r.zero) * r.scale) / row[k];
        for (int j = k + 1; j < g->n; j++) at[j] -= error[k] * row[j];
    }
    for (int j = g->n; j < left; j++) {
        lanes rest = at[j];
        for (int k = 0; k < g->n; k++) rest -= error[k] * u[(size_t)k * (size_t)stride + (size_t)j];
        at[j] = rest;
    }
}

const struct quant_maker QUANT_MAKER = {make, toward};
