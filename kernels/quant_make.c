/* quant_make.c - the numbers of q8 and q4: sixteen rows side by side, a lane each.
 *
 * Every number depends on one row's group alone, so it does not matter who packs what, or how many at once. Compiled for
 * several instruction sets (kernels/meson.build); lanes never meet and nothing is contracted, so all give the same bits. */
#include "kernels/quant_make.h"

#include <math.h>
#include <string.h>

enum { P = QUANT_PANEL, G = QUANT_GROUP };

/* The compiler's own vectors: it makes four, two or one register of them. */
typedef float lanes __attribute__((vector_size(64)));
typedef int32_t masks __attribute__((vector_size(64)));
_Static_assert(sizeof(lanes) == P * sizeof(float), "a lane per row");

#define ALL(f) ((lanes){0} + (f))
#define PICK(mask, yes, no) ((lanes)(((masks)(yes) & (mask)) | ((masks)(no) & ~(mask))))
#define MAX(a, b) PICK((a) > (b), a, b) /* b where a is NaN */
#define MIN(a, b) PICK((a) < (b), a, b)
#define TRUNCATED(a) __builtin_convertvector(__builtin_convertvector(a, masks), lanes)
#define X(g, k) (*(lanes *)(g)->x[k])

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

/* Gives every x the nearest level of (x + low) * density, then finds the line that fits these best, by least squares. In units
 * of a fifteenth of the range, and the range holds 0; `low` can be 15.9 steps at most (z is a byte) and at least 0. sum: of all
 * x. The error lacks the sum of x squared, the same for all lines. */
static void fit(const struct quant_making *g, const lanes *low, float density, const lanes *sum, struct line *f) {
    const float n = (float)g->n;
    const lanes sx = *sum, from = *low * density + 0.5f;
    lanes sl = {0}, sll = {0}, sxl = {0};
    for (int k = 0; k < g->n; k++) {
        const lanes x = X(g, k);
        lanes l = x * density + from;
        l = MAX(l, ALL(0));
        l = MIN(l, ALL(15));
        l = TRUNCATED(l);
        sl += l;
        sll += l * l;
        sxl += x * l;
    }
    const lanes d = n * sll - sl * sl, some = MAX(d, ALL(1)), most = MAX(sll, ALL(1));
    lanes step = PICK(d > 0, (n * sxl - sx * sl) / some, ALL(0)), at = (sx - step * sl) / n;
    step = PICK(at > 0, PICK(sll > 0, sxl / most, ALL(1)), step);
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
    for (int k = 0; k < g->n; k++) sum += X(g, k);
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

void QUANT_MAKE(struct quant_making *g, enum fmt f) {
    if (f == FMT_Q8) make_q8(g);
    else make_q4(g);
}
