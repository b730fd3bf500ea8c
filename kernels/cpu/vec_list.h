/* vec_list.h - the routines of struct vec under the name of the instruction set being compiled; included after simd.h. */
#pragma once
#include "kernels/cpu/vec.h"

void  ISA(products)(const struct products *p);
void  INT8(quant_products)(const struct quant_products *p);
void  ISA(quantise)(int8_t *q, struct quant_group *groups, const float *x, int n);
void  ISA(transposed)(const struct transposed *p);
void  ISA(attend)(const struct attend *a);
void  ISA(silu_mul)(float *gate, const float *up, int64_t n);
void  ISA(swiglu)(float *gate, const float *up, struct swiglu act, int64_t n);
void  ISA(rmsnorm)(float *out, const float *x, const float *weight, float eps, int N);
void  ISA(rope)(float *head, const float *cos_sin, int half);
void  ISA(rope_pairs)(float *head, const float *cos_sin, int half);
void  ISA(widen)(float *out, const void *in, enum fmt fmt, int64_t n);
void  ISA(narrow)(void *out, enum fmt fmt, const float *in, int64_t n);
float ISA(narrow_int8)(int8_t *out, const float *in, int n);
void  ISA(clamp)(float *x, float limit, int64_t n);
void  ISA(axpy)(float *y, float factor, const float *x, int64_t n);
void  ISA(combine)(float *y, const float *const *rows, const float *weights, int k, int H);
void  ISA(softmax)(float *out, const float *x, int n);
void  ISA(sigmoid)(float *out, const float *x, int n);
int   ISA(argmax)(const float *x, int n);
float ISA(sum_exp)(const float *x, float max, int n);
void  ISA(weigh)(float *weights, uint16_t *buckets, const float *logits, float max, float inverse, int n);
