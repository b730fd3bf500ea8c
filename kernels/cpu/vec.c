/* vec.c - the table of one instruction set. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_list.h"

const struct vec INT8(vec) = {
    .products = ISA(products),
    .quant_products = INT8(quant_products),
    .quantise = ISA(quantise),
    .transposed = ISA(transposed),
    .attend = ISA(attend),
    .silu_mul = ISA(silu_mul),
    .swiglu = ISA(swiglu),
    .rmsnorm = ISA(rmsnorm),
    .rope = ISA(rope),
    .rope_pairs = ISA(rope_pairs),
    .widen = ISA(widen),
    .narrow = ISA(narrow),
    .narrow_int8 = ISA(narrow_int8),
    .clamp = ISA(clamp),
    .axpy = ISA(axpy),
    .combine = ISA(combine),
    .softmax = ISA(softmax),
    .sigmoid = ISA(sigmoid),
    .argmax = ISA(argmax),
    .sum_exp = ISA(sum_exp),
    .weigh = ISA(weigh),
};
