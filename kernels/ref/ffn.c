/* ffn.c - down(act(gate x, up x)) for groups of rows, neuron by neuron.
 *
 * A neuron's activation is computed and at once spread over the outputs, so no row of activations is ever kept. */
#include <math.h>

#include "kernels/ref/ref.h"

static double dot_row(struct mat w, int row, const float *x, const float *bias) {
    double sum = bias ? bias[row] : 0;
    for (int k = 0; k < w.cols; k++) sum += (double)x[k] * ref_weight(w, row, k);
    return sum;
}

double ref_swiglu(struct swiglu act, double g, double u) {
    if (!(act.limit > 0)) return g / (1 + exp(-g)) * u;
    g = fmin(g, act.limit);
    return g / (1 + exp(-act.alpha * g)) * (fmax(fmin(u, act.limit), -act.limit) + act.shift);
}

static double activation(const struct ffn *f, int neuron, const float *x) {
    double g = dot_row(f->gate, neuron, x, f->gate_bias);
    return f->up.data ? ref_swiglu(f->act, g, dot_row(f->up, neuron, x, f->up_bias)) : g;
}

static void one_row(const struct ffn *f, float *y, const float *x, int H, bool add) {
    if (fmt_quant(f->gate.fmt)) {
        ref_quant_ffn(f, y, x, H, add);
        return;
    }
    for (int h = 0; h < H; h++) y[h] = (add ? y[h] : 0) + (f->down_bias ? f->down_bias[h] : 0);
    for (int i = 0; i < f->gate.rows; i++) {
        double act = activation(f, i, x);
        for (int h = 0; h < H; h++) {
            y[h] += (float)(act * ref_weight(f->down, h, i));
        }
    }
}

void ref_ffn(struct backend *b, float *y, const float *x, const struct ffn_group *groups, int n_groups, int H) {
    (void)b;
    for (int g = 0; g < n_groups; g++) {
        for (int i = 0; i < groups[g].count; i++) {
            int64_t row = (int64_t)(groups[g].first + i) * H;
            one_row(groups[g].weights, y + row, x + row, H, groups[g].add);
        }
    }
}
